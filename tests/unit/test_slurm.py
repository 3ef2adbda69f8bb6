"""docs/posttrain.sbatch as bash runs it, on programs that behave as Slurm's, DVC's and posttrain do.

`srun` starts the command once a task and ends with the highest code; `posttrain` does what its name is told in codes/.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs/posttrain.sbatch"
STAGES = ["prepare", "sft", "grpo", "evaluate", "report"]

PROGRAMS = {
    "srun": """
        while [[ $1 == --* ]]; do
            [[ $1 == --ntasks=* ]] && tasks=${1#*=}
            [[ $1 == --nodelist=* ]] && hosts=${1#*=}
            [[ $1 == --kill-on-bad-exit=* ]] && lenient=${1#*=}
            shift
        done
        [[ $lenient == 0 ]] || exit 99
        for (( node = 0; node < tasks; node++ )); do
            SLURM_NODEID=$node HOSTS=$hosts "$@" & pids+=($!)
        done
        highest=0
        for pid in "${pids[@]}"; do
            if [[ -p signalled ]]; then
                read -r _ < signalled
                kill -TERM "$pid"
            fi
            code=0; wait "$pid" || code=$?
            (( code > highest )) && highest=$code
        done
        exit $highest""",
    "scontrol": """
        [[ $1 == show ]] && printf 'gpu07\\ngpu08\\n' && exit
        echo "scontrol $*" >> log""",
    "dvc": """
        stage=${!#}
        [[ $1 == status ]] && exec test -e "done/$stage"
        echo "dvc $*" >> log
        touch "done/$stage" """,
    "posttrain": """
        machine="$POSTTRAIN_LAUNCH_MACHINE_RANK of $POSTTRAIN_LAUNCH_MACHINES on $HOSTS"
        echo "posttrain $1 | $machine | $POSTTRAIN_LAUNCH_MAIN_ADDRESS | $POSTTRAIN_LAUNCH_PROCESSES" >> log
        if [[ -p signalled ]]; then
            trap 'exit 75' TERM
            echo "$$" > signalled
            for (( tenths = 0; tenths < 100; tenths++ )); do read -r -t 0.1 _ <> signalled || :; done
        fi
        [[ -e codes/$1.$POSTTRAIN_LAUNCH_MACHINE_RANK ]] || exit 0
        exit "$(cat "codes/$1.$POSTTRAIN_LAUNCH_MACHINE_RANK")" """,
}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The folder that the job was submitted in."""
    for folder in ("bin", "done", "codes", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".venv/bin/activate").write_text('PATH="$PWD/bin:$PATH"\n')
    return tmp_path


def run(job: Path, restarts: int | None = None) -> subprocess.CompletedProcess[str]:
    slurm = {"JOB_ID": "4217", "JOB_NODELIST": "gpu[07-08]", "JOB_NUM_NODES": "2", "SUBMIT_DIR": str(job)}
    slurm |= {"CPUS_PER_TASK": "8"} | ({} if restarts is None else {"RESTART_COUNT": str(restarts)})
    environment = {"PATH": f"{job}/bin:{os.environ['PATH']}"} | {f"SLURM_{key}": value for key, value in slurm.items()}
    return subprocess.run(
        ["bash", SCRIPT], cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


def log(job: Path) -> list[str]:
    path = job / "log"
    return path.read_text().splitlines() if path.exists() else []


def started(job: Path) -> list[str]:
    """Stage and machine of each `posttrain`; tasks of one stage start in any order."""
    return sorted((" ".join(line.split()[1:4:2]) for line in log(job) if line.startswith("posttrain")), key=order)


def order(text: str) -> tuple[int, str]:
    return STAGES.index(text.split()[0]), text


def test_a_first_run_takes_every_stage_and_records_it(job: Path) -> None:
    result = run(job)
    assert result.returncode == 0, result.stderr
    assert started(job) == ["prepare 0", "sft 0", "sft 1", "grpo 0", "grpo 1", "evaluate 0", "report 0"]
    assert [line for line in log(job) if line.startswith("dvc")] == [f"dvc commit --force --quiet {s}" for s in STAGES]
    assert not any("requeue" in line for line in log(job))


def test_the_machines_are_told_where_they_meet(job: Path) -> None:
    run(job)
    shared = sorted(line for line in log(job) if line.startswith("posttrain sft"))
    assert shared == [f"posttrain sft | {rank} of 2 on gpu[07-08] | gpu07:24217 | auto" for rank in (0, 1)]
    alone = [line for line in log(job) if line.startswith("posttrain prepare")]
    assert alone == ["posttrain prepare | 0 of 1 on gpu07 | gpu07:24217 | auto"]


def test_what_is_up_to_date_is_left_out(job: Path) -> None:
    for name in ("prepare", "sft"):
        (job / "done" / name).touch()
    result = run(job)
    assert result.returncode == 0
    assert "slurm | sft is up to date" in result.stdout
    assert started(job) == ["grpo 0", "grpo 1", "evaluate 0", "report 0"]


@pytest.mark.parametrize("code", [75, 143])
def test_what_was_stopped_is_requeued_and_goes_on(code: int, job: Path) -> None:
    for rank in (0, 1):
        (job / f"codes/sft.{rank}").write_text(str(code))
    assert run(job).returncode == code
    assert started(job) == ["prepare 0", "sft 0", "sft 1"]
    assert log(job)[-1] == "scontrol requeue 4217"
    for rank in (0, 1):
        (job / f"codes/sft.{rank}").unlink()
    (job / "log").unlink()
    assert run(job, restarts=1).returncode == 0
    assert started(job)[:2] == ["sft 0", "sft 1"]


@pytest.mark.parametrize("code", [1, 2, 137])
def test_a_fault_ends_the_job(code: int, job: Path) -> None:
    (job / "codes/grpo.0").write_text(str(code))
    result = run(job)
    assert result.returncode == code
    assert f"grpo ended with exit code {code}" in result.stderr
    assert not any("requeue" in line for line in log(job))
    assert not (job / "done/grpo").exists()


def test_restarts_have_an_end(job: Path) -> None:
    (job / "codes/grpo.1").write_text("75")
    restarts = int(re.findall(r"^MAX_RESTARTS=(\d+)", SCRIPT.read_text(), re.M)[0])
    result = run(job, restarts=restarts)
    assert result.returncode == 75
    assert f"after {restarts} restarts" in result.stderr
    assert not any("requeue" in line for line in log(job))


def test_sigterm_to_a_task_reaches_posttrain(job: Path) -> None:
    """srun's child is posttrain itself, not a shell around it that would end and leave it running."""
    os.mkfifo(job / "signalled")
    assert run(job).returncode == 75
    assert log(job)[-1] == "scontrol requeue 4217"


def test_a_commit_that_fails_ends_the_job(job: Path) -> None:
    (job / "done").rmdir()
    result = run(job)
    assert result.returncode not in (0, 75)
    assert started(job) == ["prepare 0"]
