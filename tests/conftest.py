"""What every process of the tests is told before it imports torch or MLflow, those that tests start included."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side: `make test`
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # else a server starts seven more processes
