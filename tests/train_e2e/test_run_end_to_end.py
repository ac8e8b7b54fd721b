"""A whole run of two processes from the command line: what it prints and what it leaves behind."""

import json
from pathlib import Path

import pytest
from small import LONGPIPE, TORCHRUN, command, losses, records, run, run_here, timeline

from longpipe.ir import COMPUTE
from longpipe.plan.plan import Plan
from longpipe.train.config_file import load_config
from longpipe.train.job import prepare
from longpipe.train.run import train

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a finished run of 12 steps."""
    folder = tmp_path_factory.mktemp("run")
    done = run(*command(folder, "pipeline.schedule=seq-zb-h1", "train.steps=12"))
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


def test_the_loss_falls(folder: Path) -> None:
    found = losses(folder)
    assert len(found) == 12
    assert found[-1] < found[0] - 1.0


def test_every_number_of_a_step_is_recorded(folder: Path) -> None:
    for step, record in enumerate(records(folder), start=1):
        assert record["step"] == step
        assert record["tokens"] == 2 * 64
        for name in ("grad_norm", "lr", "tokens_per_s", "tflops_per_s", "peak_memory_bytes"):
            assert record[name] > 0, name
        assert 0 <= record["global_bubble_predicted"] < 1
        assert 0 <= record["global_bubble_measured"] < 1


def test_ops_ran_in_the_order_of_the_program(folder: Path) -> None:
    plan = Plan.from_json((folder / "run" / "plan.json").read_text())
    program = plan.program()
    measured = timeline(folder / "run" / "measured.json")
    predicted = timeline(folder / "run" / "predicted.json")
    for rank, row in enumerate(program.rows):
        order = [op for op in row if op.kind in COMPUTE]
        assert [event.op for event in measured.rows[rank]] == order
        assert [event.op for event in predicted.rows[rank]] == order
    assert predicted.source == "simulated"
    assert measured.source == "measured"


def test_memory_is_predicted_and_measured(folder: Path) -> None:
    for name in ("measured.json", "predicted.json"):
        for row in timeline(folder / "run" / name).rows:
            assert all(event.peak is not None and event.peak > 0 for event in row)
            assert row[-1].memory < 0.05 * max(event.peak for event in row)


def test_the_resolved_config_and_the_traces_can_be_read_back(folder: Path) -> None:
    resolved = load_config(folder / "run" / "config.toml")
    assert resolved.train.steps == 12
    assert resolved.pipeline.schedule == "seq-zb-h1"
    assert "traceEvents" in json.loads((folder / "run" / "trace.json").read_text())
    assert (folder / "run" / "trace.html").read_text().startswith("<!")


def test_the_output_suits_a_log_and_ends_with_the_way_to_do_it_again(folder: Path) -> None:
    lines = (folder / "stdout").read_text().replace(str(folder), "runs").splitlines()
    assert max(map(len, lines[:-1])) <= 100, "all but the command fit a terminal"
    assert any(line.startswith("step 12/12") for line in lines)
    assert any("simulated" in line for line in lines)
    assert any("torchrun" in line for line in lines[-4:])


def test_torchrun_joins_the_same_run(folder: Path) -> None:
    start = (str(TORCHRUN), "--standalone", "--nproc-per-node=2", "--no-python")
    settings = ("pipeline.schedule=seq-zb-h1", "train.steps=12")
    other = f"train.out_dir={folder / 'run-torchrun'}"
    done = run(*start, *command(folder, *settings, other))
    assert done.returncode == 0, done.stderr
    assert losses(folder, "run-torchrun") == losses(folder)
    assert done.stdout.count("the same under torchrun") == 1


def test_a_finished_run_says_so_and_starts_nothing(folder: Path) -> None:
    before = (folder / "run" / "metrics.jsonl").read_bytes()
    changed = ("pipeline.schedule=seq-zb-h1", "train.steps=12", "optim.lr=0.02", "train.keep=5")
    again = run(*command(folder, *changed))
    assert again.returncode == 0, again.stderr
    assert "done already" in again.stdout
    assert "that wrote this checkpoint:\n  optim.lr 0.01 -> 0.02\n" in again.stdout
    assert "train.keep" not in again.stdout
    assert "the same under torchrun" not in again.stdout
    assert (folder / "run" / "metrics.jsonl").read_bytes() == before


def test_the_trained_model_is_a_hugging_face_folder_to_start_from(folder: Path) -> None:
    model = folder / "run" / "model"
    assert json.loads((model / "config.json").read_text())["model_type"] == "llama"
    path = folder / "again.toml"
    path.write_text(
        f'[model]\nhf_config = "{model}"\nweights = "{model}"\n'
        f'[data]\npaths = ["{folder}/text.txt"]\nseparator = "\\n\\n"\nsequence_length = 64\n'
        f'cache_dir = "{folder}/cache"\n[pipeline]\nranks = 1\nmicrobatches = 2\n'
        f'[train]\nsteps = 1\nout_dir = "{folder}/again"\ndevice = "cpu"\n'
    )
    train(prepare(load_config(path)))
    assert losses(folder, "again")[0] < losses(folder)[0] - 1.0


def test_bfloat16_trains_with_wide_weights(folder: Path) -> None:
    narrow = ("train.precision=bfloat16", f"train.out_dir={folder / 'narrow'}")
    run_here(folder, *narrow, "train.steps=12")
    found, wide = losses(folder, "narrow"), losses(folder)
    assert found == pytest.approx(wide, rel=0.02)
    assert found != wide
    manifest = json.loads((folder / "narrow/checkpoints/step-00000012/manifest.json").read_text())
    assert {tensor["dtype"] for tensor in manifest["tensors"].values()} == {"float32"}


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_can_be_read(example: Path) -> None:
    config = load_config(example)
    assert f"`{example.name}`" in (EXAMPLES / "README.md").read_text()
    assert config.data.sequence_length >= 4096


def test_doctor_finds_that_training_can_run_here() -> None:
    done = run(str(LONGPIPE), "doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert found["ok"] is True
    assert states["torch"] == states["local processes"] == states["attention, cpu float32"] == "ok"
