"""A registered model as a job that answers predictions: found, given what it needs, served."""
