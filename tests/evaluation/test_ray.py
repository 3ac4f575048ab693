"""The same plan on a real cluster of Ray nodes, each with processes of its own, on this machine."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from relprop.errors import ModelError, RunError
from relprop.evaluation import ModelSpec, Plan
from relprop.evaluation.local import run
from relprop.evaluation.ray import TRIES, run_ray
from tiny import Tiny, pictures

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


class Fragile(Tiny):
    """Takes its time, and kills its process as often as there are files in the folder that DEATHS names."""

    def forward(self, x):
        time.sleep(0.02)
        for death in Path(os.environ["DEATHS"]).iterdir():
            with suppress(FileNotFoundError):  # another process took it
                death.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def plan_of(tmp_path: Path, count: int) -> Plan:
    """A plan of chunks of two pictures each."""
    model = ModelSpec("test_ray:Fragile", size=8, mean=(0.5,), std=(0.25,))
    return Plan(model, f"folder:{pictures(tmp_path / 'pictures', count)}", ("sobel", "random"), batch=2, step=2)


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """A head without room for workers, and two nodes with room for one each; all on the loopback interface."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(
        ray_constants, "ENABLE_RAY_CLUSTER", False
    )  # or else 127.0.0.1 becomes this machine's own address
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("DEATHS", str(tmp_path / "deaths"))  # processes of the nodes inherit it
    (tmp_path / "deaths").mkdir()
    here = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **here})
    nodes = [made.add_node(num_cpus=1, **here) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False, configure_logging=False, _node_ip_address="127.0.0.1")
    yield made, nodes
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_rows_equal_those_of_a_local_run_although_a_node_dies(tmp_path, cluster):
    made, nodes = cluster
    plan = plan_of(tmp_path, 60)
    seen: list[int] = []

    def kill_a_node(done: int, total: int) -> None:
        seen.append(done)
        if done >= 3 and len(nodes) == 2:
            made.remove_node(nodes.pop(), allow_graceful=False)

    store = run_ray(plan, tmp_path / "ray", workers=2, report=kill_a_node)
    assert len(nodes) == 1, "no node was killed"
    assert seen[-1] == 60  # samples, two a chunk
    local = run(plan, tmp_path / "local").rows().collect()
    assert store.rows().collect().equals(local)

    broken = Plan(ModelSpec("tiny:nobody", size=8), plan.data, ("sobel",))
    with pytest.raises(ModelError, match="nobody"):
        run_ray(broken, tmp_path / "broken")


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_a_chunk_that_kills_each_ends_the_run(tmp_path, cluster):
    plan = plan_of(tmp_path, 8)
    deaths = Path(os.environ["DEATHS"])

    def die(times: int) -> None:
        for at in range(times):
            (deaths / str(at)).touch()

    die(2 * TRIES)  # more than are needed: a busy machine may lose a process before it comes to compute
    with pytest.raises(RunError, match=f"chunk 0 was tried {TRIES} times, and each time its process was lost"):
        run_ray(plan, tmp_path / "ray", workers=1)
    for death in deaths.iterdir():
        death.unlink()
    die(1)
    store = run_ray(plan, tmp_path / "ray", workers=2)
    assert not list(deaths.iterdir()), "no process was killed"
    assert store.rows().collect().equals(run(plan, tmp_path / "local").rows().collect())


def test_an_address_where_nobody_listens_is_said_at_once(tmp_path):
    plan = Plan(ModelSpec("tiny:make", size=8), "folder:nowhere", ("sobel",))
    with pytest.raises(RunError, match=r"there is no Ray cluster at '127\.0\.0\.1:1' .*ray start --head"):
        run_ray(plan, tmp_path / "run", address="127.0.0.1:1")
    assert not (tmp_path / "run").exists()
