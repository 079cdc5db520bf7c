"""Where the work is done: one device, several of one machine, or several processes and machines."""
