"""A recipe's settings: one frozen dataclass, from the command line, from YAML, and back."""
