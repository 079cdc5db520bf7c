"""Write a trained model in the form that a browser or a model server takes."""
