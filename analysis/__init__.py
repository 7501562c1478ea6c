"""Arrays and tables in, numbers, tables and figures out. Knows nothing of MLflow, files or the command line."""
