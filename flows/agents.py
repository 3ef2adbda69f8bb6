"""The stages as Prefect deployments, each on an agent of the pool that fits it, and the flow that chains them.

Reads   prefect.yaml (which stage on which pool), dvc.yaml, params.yaml; POSTTRAIN_LAUNCH_* of the agent's environment
Writes  on an agent: the outs of its stage, into its clone and the DVC remote; where the chain runs: dvc.lock, the small
        files among the outs, and a DVC experiment under the flow run's name
Run     prefect deployment run posttrain-agents/run; docs/agents.md says what that needs

What travels between clones, and how, is in flows/receipt.py. No bytes of a model pass through the chain or the server.
"""

import platform
import time
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

import httpx
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import ArtifactSort
from prefect.deployments import run_deployment
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Cancelling, Completed

from flows import receipt
from flows.artifacts import summary
from flows.experiment import commit_of, committed_text, experiment_name, record, same_commit
from flows.gpus import gpus
from flows.lock import WORKSPACE_LOCK, held
from flows.pipeline import STATE_NAMES, Setting, chosen, forced_of, stage_task
from flows.receipt import Fetched, Receipt
from flows.stage_run import StageRun
from flows.told import failed, told
from posttrain.errors import InputError, PosttrainError
from posttrain.graph import stage_names
from posttrain.params.recipes import overlaid
from posttrain.paths import PARAMS

STAGE_FLOW = "posttrain-stage"
RECEIPT = "result"  # of Prefect's types of artifacts the one for data
POLL_S = 2.0
SERVER_PATIENCE_S = 600.0  # a server that is restarted meanwhile fails no run
HEARTBEAT_S = 30  # automations.yaml takes a run for dead after three of them


# ---------------------------------------------------------------------------------------------------------------------
# The chain


@flow(name="posttrain-agents")
@told
def chain(
    stages: list[str] | None = None,
    recipe: str | None = None,
    set: dict[str, Setting] | None = None,
    force: bool | list[str] = False,
) -> State:
    """Bring the stages up to date, each on an agent, in the order of dvc.yaml: all, or those asked for.

    Args:
        stages: Some of those of dvc.yaml.
        recipe: One of recipes/, whose values stand in place of those of the commit's params.yaml.
        set: Other params, such as `{"grpo.num_generations": 8}`.
        force: Stages to run although nothing changed, or true for all.
    """
    root, log = Path.cwd(), get_run_logger()
    heartbeats()
    names = chosen(stages, stage_names(root))
    forced = forced_of(force, names)
    commit = commit_of(root)
    done = receipt.whole(root)
    # Of the commit, for this clone may have those of the last run.
    done["files"][str(PARAMS)] = overlaid(recipe, set or {}, committed_text(PARAMS, root))
    log.info("params.yaml of commit %s, recipe %s, other params %s", commit[:10], recipe, set)
    publish("start", done)
    runs: list[StageRun] = []
    after = [UUID(runtime.flow_run.id)]
    for stage in names:
        child = ended(delegate(stage, commit, after, stage in forced))
        if child.state is None or not child.state.is_completed():
            return stopped(runs, stage, child)
        run, given = received(child.id)
        assert run is not None
        with held(root / WORKSPACE_LOCK, log.info):
            done = receipt.merged([done, given])
            receipt.take(done, root)
        runs.append(run)
        after.append(child.id)
        log.info("%s %s in %.0f s, flow run %s", stage, run.outcome, run.seconds, child.name)
    name = experiment_name(str(runtime.flow_run.name))
    record(name, root)
    show(
        summary(runs, root),
        f"Recorded as the DVC experiment `{name}`, which `dvc exp show` lists in {root} on {platform.node()}. There, "
        f"`dvc pull` brings the models. For an older run, `dvc exp apply NAME` first; what it misses, the pull brings.",
    )
    return Completed(message=", ".join(f"{run.stage} {run.outcome}" for run in runs))


def show(table: str, text: str) -> None:
    create_markdown_artifact(f"{table}\n\n{text}", key="posttrain-agents", description="what ran, and what it came to")


def delegate(stage: str, commit: str, after: list[UUID], force: bool) -> FlowRun:
    """Hand one stage to the pool of its deployment."""
    return run_deployment(  # type: ignore[return-value]  # not a coroutine: this is no async context
        f"{STAGE_FLOW}/{stage}",
        parameters={"stage": stage, "commit": commit, "after": [str(run) for run in after], "force": force},
        flow_run_name=f"{stage} of {runtime.flow_run.name}",
        timeout=0,
    )


def ended(child: FlowRun) -> FlowRun:
    """The flow run once it is over. Whatever interrupts the wait, cancellation among it, cancels the run too."""
    with get_client(sync_client=True) as client:
        try:
            while child.state is None or not child.state.is_final():
                time.sleep(POLL_S)
                child = seen(child.id, client)
        except BaseException:
            client.set_flow_run_state(child.id, Cancelling(message="the chain that it belongs to was stopped"))
            raise
    return child


def seen(flow_run: UUID, client: SyncPrefectClient) -> FlowRun:
    """The flow run as the server has it, once it answers."""
    began = time.monotonic()
    while True:
        try:
            return client.read_flow_run(flow_run)
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            wrong = isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error
            if wrong or time.monotonic() - began > SERVER_PATIENCE_S:
                raise
            get_run_logger().warning("the Prefect server does not answer (%s); asking again", type(error).__name__)
            time.sleep(POLL_S)


def stopped(runs: list[StageRun], stage: str, child: FlowRun) -> State:
    """The state of a chain one of whose stages was cancelled.

    Raises: PosttrainError with the cause if it ended in another way
    """
    assert child.state is not None
    cause = child.state.message or "no message"
    quoted = "\n".join(f"    {line}" for line in cause.splitlines())  # as code, whatever a stage has printed
    show(summary(runs, Path.cwd()), f"**{stage}: {child.state.name}** in flow run `{child.name}`:\n\n{quoted}")
    if child.state.is_cancelled():
        return Cancelled(message=f"{stage} was cancelled: flow run '{child.name}'")
    raise PosttrainError(
        f"{cause}\nIn flow run '{child.name}', {child.state.name}. What was done before it is kept: when the "
        "cause is mended, run the deployment again."
    )


# ---------------------------------------------------------------------------------------------------------------------
# One stage, on an agent


@flow(name=STAGE_FLOW)
@told
def stage_on_agent(
    stage: str, commit: str | None = None, after: list[UUID] | None = None, force: bool = False
) -> State:
    """One stage in this agent's clone, on the receipts of the flow runs before it; without any, on what is there."""
    root, log = Path.cwd(), get_run_logger()
    heartbeats()
    same_commit(root, commit)
    with held(root / WORKSPACE_LOCK, log.info):
        given = receipt.merged([received(run)[1] for run in after] if after else [receipt.whole(root)])
        receipt.take(given, root)
        fetched: Fetched = fetch(stage, force, return_state=True).result()  # type: ignore[assignment]  # or it raises
        with gpus(stage, root):
            run = stage_task(stage, root, fetched.options).result()
        if fetched.to_push(run.outcome):
            push(stage, return_state=True).result()
        publish(stage, receipt.of_stage(stage, root), run)
    return Completed(name=STATE_NAMES[run.outcome], message=f"{run.outcome} on {platform.node()}, {run.seconds:.0f} s")


@task(task_run_name="fetch what {stage} needs", cache_policy=NO_CACHE)
def fetch(stage: str, force: bool) -> Fetched | State:
    try:
        return receipt.fetch(stage, Path.cwd(), get_run_logger().info, force)
    except PosttrainError as error:
        return failed(error)


@task(task_run_name="push what {stage} made", cache_policy=NO_CACHE)
def push(stage: str) -> State | None:
    try:
        receipt.push(stage, Path.cwd(), get_run_logger().info)
    except PosttrainError as error:
        return failed(error)
    return None


# ---------------------------------------------------------------------------------------------------------------------
# What an agent has to be


def heartbeats() -> None:
    """Raises: InputError if this run's signs of life are too rare for automations.yaml, which would mark it Crashed."""
    if not runtime.deployment.id:  # called, not deployed: nobody waits for a heartbeat
        return
    every = get_current_settings().flows.heartbeat_frequency
    if every is None or every > HEARTBEAT_S:
        raise InputError(
            f"the worker on {platform.node()}",
            got=f"PREFECT_FLOWS_HEARTBEAT_FREQUENCY={every}",
            wanted=f"{HEARTBEAT_S} or less, or healthy runs are taken for dead",
            do=f"set PREFECT_FLOWS_HEARTBEAT_FREQUENCY={HEARTBEAT_S} where the worker starts",
        )


# ---------------------------------------------------------------------------------------------------------------------
# Receipts as Prefect artifacts: as parameters of a flow run they could be too large (512 kB)


def publish(stage: str, given: Receipt, run: StageRun | None = None) -> None:
    """Leave the receipt with this flow run, for the chain and for later stages."""
    artifact = ArtifactCreate(
        type=RECEIPT,
        description=f"receipt of {stage}: dvc.lock and small files, for later stages",
        data={"run": run and asdict(run), **given},
        flow_run_id=runtime.flow_run.id,
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(artifact)


def received(flow_run: UUID) -> tuple[StageRun | None, Receipt]:
    """What a flow run published last; the run is None for what a chain started from."""
    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]), type=ArtifactFilterType(any_=[RECEIPT])
    )
    with get_client(sync_client=True) as client:
        newest = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC, limit=1)[0].data
    assert isinstance(newest, dict)
    run = StageRun(**newest["run"]) if newest["run"] else None
    return run, {"lock": newest["lock"], "files": newest["files"]}
