"""What MLflow was told while steps ran: the curves of a report."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pipeline.engine.track import default_uri, patient, without_password
from pipeline.store import Store

log = logging.getLogger("kintsugi")
Points = list[tuple[int, float]]


def histories(store: Store, addresses: Iterable[str], metric: str) -> dict[str, Points]:
    """{address: [(images seen, value)]} of the steps that logged the metric; {} where MLflow does not answer."""
    patient()
    try:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=default_uri(store))
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found: dict[str, Points] = {}
        for address in addresses:
            runs = client.search_runs(experiments, f"tags.`kintsugi.address` = '{address}'", max_results=1)
            points = client.get_metric_history(runs[0].info.run_id, metric) if runs else []
            if points:
                found[address] = sorted({point.step: point.value for point in points}.items())
        return found
    except Exception as error:  # a report without curves is a report
        log.warning("curves are left out, MLflow did not give them: %s", without_password(str(error)))
        return {}
