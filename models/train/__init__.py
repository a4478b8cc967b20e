"""Training of the models that the project makes itself."""
