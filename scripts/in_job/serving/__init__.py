"""What a worker does with requests beside MLflow: who gets in, by which road, in what turn, in which limits.

May import `words`, `location` and `queries` of in_job, and MLflow with what that brings, when it is used.
"""
