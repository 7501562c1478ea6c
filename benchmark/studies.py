"""What a study of Optuna's takes beside its trials: a database, and a rule that gives trials up."""

import math

import optuna
import sqlalchemy
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

from benchmark.errors import UserError

HEARTBEAT = 60  # seconds between signs of life of a worker; a trial that gave none for three times that is tried again
RETRIES = 3


def halving(snapshots: int) -> optuna.pruners.BasePruner:
    """Gives up the worse half of the trials at a quarter of the training, and again at half of it.

    Not Hyperband: it shares the trials among brackets, and the sampler needs ten in each before it learns anything.
    """
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=math.ceil(snapshots / 4), reduction_factor=2)


def open_storage(address: str) -> RDBStorage:
    """The database at a SQLAlchemy address. Raises UserError, without a password, where it cannot be used."""
    try:
        url = sqlalchemy.make_url(address)
    except sqlalchemy.exc.ArgumentError as error:  # not repeated: it may hold a password
        raise UserError("storage: not a database's address, such as postgresql+psycopg2://USER@HOST/NAME") from error
    try:
        engine = sqlalchemy.create_engine(url)
        tables = set(sqlalchemy.inspect(engine).get_table_names())
        engine.dispose()
        if "alembic_version" in tables and "studies" not in tables:  # of which Optuna has one, too
            raise ValueError("it holds the tables of another program, such as MLflow; a study takes one of its own")
        return RDBStorage(
            address,
            heartbeat_interval=HEARTBEAT,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES),
        )
    except (ImportError, RuntimeError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UserError(f"storage: '{url}' cannot be used: {error}") from error  # without the password
