"""A registered model as a job that answers predictions: found, given what it needs, served.

May import `words` and `waiting` of in_job, and MLflow with what that brings, in processes of its own.
"""
