"""The config tree: read, overridden, refused with the way out, and written back."""

from pathlib import Path
from typing import Any

import pytest

from longpipe.errors import ConfigError
from longpipe.train.config import Config, Section
from longpipe.train.config_changes import changes
from longpipe.train.config_file import known_names, load_config, parse_override, save_resolved

SMALL = ("model.hidden_size=64", "model.layers=4", "model.heads=4", "data.paths=['a.txt']")


def load(*overrides: str) -> Config:
    return load_config(None, [*SMALL, *overrides])


def fault(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    return str(caught.value)


def test_a_file_is_read_and_overrides_win(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        "[model]\nhidden_size = 64\nlayers = 4\nheads = 4\n"
        "[data]\npaths = ['a.txt']\nsequence_length = 100\n"
        "[pipeline]\nsegments = 2\ncuts = [60, 40]\n"
        "[optim]\nlr = 1\n"
    )
    config = load_config(file, ["optim.lr=2e-4", "train.steps=7", "train.steps=8"])
    assert config.pipeline.cuts == (60, 40)
    assert config.optim.lr == 2e-4
    assert config.train.steps == 8
    assert load_config(file).optim.lr == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.steps=3", 3),
        ("train.steps = 3", 3),
        ("train.tensorboard=true", True),
        ("optim.betas=[0.8, 0.9]", [0.8, 0.9]),
        ("train.out_dir=runs/a=b", "runs/a=b"),
        ('train.out_dir="3"', "3"),
        ("data.separator=", ""),
        ("data.separator='\\n'", "\\n"),
        ('data.separator="\\n"', "\n"),
    ],
)
def test_override_values_are_toml_or_text(text: str, expected: Any) -> None:
    assert parse_override(text)[1] == expected


@pytest.mark.parametrize("text", ["steps", "=3", "train.=3", ".steps=3"])
def test_an_override_of_the_wrong_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write section\.key=value"):
        parse_override(text)


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("train.step=3", "train.steps"),
        ("train.sequence_length=3", "data.sequence_length"),
        ("pipline.ranks=3", "pipeline"),
        ("optim.learning_rate=3", "known are optim.lr, optim.betas"),
        ("data.seqlen=3", "known are data.kind"),
        ("train.lr=3", "optim.lr"),
        ("xyz=3", "known are model, data, pipeline, tune, optim, train"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_right_one(override: str, near: str) -> None:
    text = fault(override)
    assert f"unknown key {override.partition('=')[0].removesuffix('.ranks')}" in text
    assert near in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=many", "train.steps = 'many': expected integer"),
        ("train.steps=true", "train.steps = True: expected integer"),
        ("train.steps=1.5", "train.steps = 1.5: expected integer"),
        ("train.steps=0", "train.steps = 0: expected greater than 0"),
        ("optim.lr=nan", "optim.lr = nan: expected a finite number"),
        ("optim.lr=[1]", "optim.lr = (1,): expected number"),
        ("optim.decay=linear", "optim.decay = 'linear': expected 'cosine', 'wsd' or 'constant'"),
        ("pipeline.cuts=odd", "pipeline.cuts = 'odd': expected 'balanced' or 'even' or a list"),
        ("pipeline.cuts=[1, 'x']", "pipeline.cuts[1] = 'x': expected integer"),
        ("optim.betas=[0.9]", "missing key optim.betas[1]"),
        ("data.paths='a'", "data.paths = 'a': expected a list"),
        ("train.tensorboard=yes", "train.tensorboard = 'yes': expected boolean"),
        ("optim=3", "optim = 3: expected"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(override: str, expected: str) -> None:
    assert expected in fault(override)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.hf_config=x"], "remove it, or remove hidden_size, layers, heads"),
        (["model.heads=5"], "not a multiple of heads = 5"),
        (["model.kv_heads=3"], "not a multiple of kv_heads = 3"),
        (["data.tokenizer=train"], "needs vocab_size"),
        (["data.kind=tokens", "data.token_dtype=uint16"], "need vocab_size"),
        (["pipeline.segments=3", "pipeline.cuts=[1,2]"], "lists 2 segment lengths"),
        (["pipeline.segments=2", "pipeline.cuts=[1,2]"], "adds up to 3 tokens"),
        (["pipeline.partition=[1,2,1]"], "lists 3 stages, but ranks * chunks = 2"),
        (["pipeline.partition=[1,2]"], "adds up to 3, model.layers = 4"),
        (["pipeline.ranks=5"], "5 stages, but model.layers = 4"),
        (["pipeline.segments=40", "pipeline.cut_multiple=128"], "do not fit"),
        (
            ["optim.warmup_steps=101"],
            "optim.warmup_steps = 101 is more than train.steps = 100: lower",
        ),
        (["optim.decay_steps=101"], "optim.decay_steps = 101 is more than train.steps = 100"),
        (
            ["optim.warmup_steps=9", "optim.decay_steps=92"],
            "optim.warmup_steps + optim.decay_steps = 101 is more than train.steps = 100",
        ),
        (
            ["optim.warmup_steps=5", "train.steps=2"],
            "5 is more than train.steps = 2: lower optim.warmup_steps, or raise train.steps",
        ),
        (["optim.betas=[0.9, 1.0]"], "betas must lie in [0, 1)"),
        (["pipeline.recompute_stages=[0]"], 'set recompute = "full" or "selective"'),
        (["pipeline.recompute=some"], "expected 'none', 'full' or 'selective'"),
        (["pipeline.recompute=full", "pipeline.recompute_stages=[-1]"], "greater than or equal"),
    ],
)
def test_values_that_contradict_each_other_are_refused(overrides: list[str], expected: str) -> None:
    assert expected in fault(*overrides)


def test_a_sequence_that_does_not_divide_names_the_nearest_ones() -> None:
    text = fault("data.sequence_length=1000", "pipeline.segments=3", "pipeline.cuts=even")
    assert "set data.sequence_length = 999 or 1002" in text
    assert '"balanced"' in text
    load("data.sequence_length=1000", "pipeline.segments=3")


def test_a_model_needs_a_shape_and_all_faults_are_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["data.paths=['a']", "train.steps=x", "train.stepz=1"])
    text = str(caught.value)
    assert "missing section model" in text
    assert "train.steps = 'x'" in text
    assert "train.stepz" in text
    with pytest.raises(ConfigError, match="set hf_config, or set hidden_size, layers, heads"):
        load_config(None, ["data.paths=['a']", "model.init_seed=1"])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[model\n")
    with pytest.raises(ConfigError, match=r"broken\.toml: not TOML: .*line 1"):
        load_config(broken)
    with pytest.raises(ConfigError, match="optim is a value, not a section"):
        load("optim=3", "optim.lr=1")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["pipeline.segments=2", "pipeline.cuts=[4000, 96]", "pipeline.partition=[3, 1]"],
        ['data.separator="\\n\\n"', "optim.lr=1e-5", "data.eos_id=0", "data.vocab_size=7"],
        ["pipeline.weight_queue_bytes=1000000000", 'train.out_dir="a \\"b\\" ü"'],
    ],
)
def test_the_resolved_config_loads_back_equal(tmp_path: Path, overrides: list[str]) -> None:
    config = load(*overrides)
    path = tmp_path / "logs" / "resolved.toml"
    save_resolved(config, path)
    assert load_config(path) == config
    assert load_config(path).digest() == config.digest()
    assert "sequence_length = 4096" in path.read_text()


def test_the_digest_changes_with_any_value() -> None:
    assert load().digest() == load().digest()
    assert load("optim.eps=2e-8").digest() != load().digest()


def test_values_do_not_change() -> None:
    config = load()
    with pytest.raises(ValueError, match="frozen"):
        config.train.steps = 3  # type: ignore[misc]


def test_every_setting_is_documented() -> None:
    def undocumented(section: type[Section], prefix: str = "") -> list[str]:
        found = []
        for name, info in section.model_fields.items():
            inner = info.annotation
            if isinstance(inner, type) and issubclass(inner, Section):
                found += undocumented(inner, f"{name}.")
                found += [] if inner.__doc__ else [name]
            elif not info.description:
                found.append(prefix + name)
        return found

    assert undocumented(Config) == []
    assert len(known_names()) == len(set(known_names()))


def test_changes_name_settings_and_leave_out_what_cannot_change_the_losses() -> None:
    before = load("optim.lr=0.01").plain()
    assert changes(before, load("optim.lr=0.01").plain()) == ()
    harmless = ("train.steps=7", "train.out_dir=x", "train.keep=9", "data.cache_dir=y")
    assert changes(before, load("optim.lr=0.01", *harmless).plain()) == ()
    after = load("optim.lr=0.02", "optim.decay_steps=3", "pipeline.ranks=1").plain()
    assert set(changes(before, after)) == {
        "pipeline.ranks 2 -> 1", "optim.lr 0.01 -> 0.02", "optim.decay_steps unset -> 3"
    }  # fmt: skip
