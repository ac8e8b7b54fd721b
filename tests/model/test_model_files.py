"""Safetensors in and out, by stages: what is missing, strange or torn is named."""

import json
import resource
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from segment_runs import BASE, CONFIGS, make_stages

from longpipe.errors import CheckpointError
from longpipe.model import Build, hf, make_stage

SPLITS = [range(1), range(1, 2)]


def empty_stages(config, splits=SPLITS):
    return [make_stage(config, splits, i, Build(seed=None)) for i in range(len(splits))]


def write(config, directory, splits=SPLITS):
    stages = make_stages(config, splits, torch.float32)
    for i, stage in enumerate(stages):
        hf.save_stage(stage, directory, i, len(stages))
    if len(stages) > 1:
        hf.write_index(config, directory, len(stages))
    return {name: p for stage in stages for name, p in stage.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("splits", [[range(2)], SPLITS], ids=["single", "sharded"])
def test_round_trip_to_another_split(name, splits, tmp_path):
    written = write(CONFIGS[name], tmp_path, splits)
    for other in ([range(2)], [range(0), range(2)], SPLITS):
        for stage in empty_stages(CONFIGS[name], other):
            hf.load_stage(stage, tmp_path)
            assert all(torch.equal(p, written[n]) for n, p in stage.named_parameters())


def test_reads_only_the_files_of_the_stage(tmp_path):
    write(BASE, tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    first, last = empty_stages(BASE)
    hf.load_stage(last, tmp_path)
    with pytest.raises(CheckpointError, match=r"00001-of-00002.* cannot be read"):
        hf.load_stage(first, tmp_path)


def test_types_are_converted(tmp_path):
    written = write(BASE, tmp_path, [range(2)])
    stage = make_stage(BASE, [range(2)], 0, Build(torch.bfloat16, seed=None))
    hf.load_stage(stage, tmp_path)
    assert all(torch.equal(p, written[n].bfloat16()) for n, p in stage.named_parameters())


def test_missing_unexpected_and_misshaped_names(tmp_path):
    written = {n: p.detach() for n, p in write(BASE, tmp_path, [range(2)]).items()}
    (stage,) = empty_stages(BASE, [range(2)])
    gone = {n: p for n, p in written.items() if n != "model.layers.1.mlp.up_proj.weight"}
    save_file(gone, tmp_path / hf.SINGLE)
    with pytest.raises(CheckpointError, match=r"missing tensors: model\.layers\.1\.mlp\.up_proj"):
        hf.load_stage(stage, tmp_path)
    save_file({**written, "model.layers.2.x": torch.zeros(1)}, tmp_path / hf.SINGLE)
    with pytest.raises(CheckpointError, match=r"does not have: model\.layers\.2\.x"):
        hf.load_stage(stage, tmp_path)
    save_file({**written, "model.norm.weight": torch.zeros(3)}, tmp_path / hf.SINGLE)
    with pytest.raises(CheckpointError, match=r"wrong shape: model\.norm\.weight \[3\] instead"):
        hf.load_stage(stage, tmp_path)


def test_tied_checkpoints_that_name_the_head(tmp_path):
    config = replace(BASE, tied=True)
    written = {n: p.detach() for n, p in write(config, tmp_path, [range(2)]).items()}
    embedding = written.pop("model.embed_tokens.weight")
    save_file({**written, "lm_head.weight": embedding}, tmp_path / hf.SINGLE)
    for stage in empty_stages(config):
        hf.load_stage(stage, tmp_path)
        assert torch.equal(stage.model.embed_tokens.weight, embedding)


def test_torn_files(tmp_path):
    write(BASE, tmp_path, [range(2)])
    file = tmp_path / hf.SINGLE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        hf.load_stage(empty_stages(BASE, [range(2)])[0], tmp_path)
    (tmp_path / hf.INDEX).write_text(json.dumps({"weight_map": 3}))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        hf.load_stage(empty_stages(BASE, [range(2)])[0], tmp_path)


def test_index_wants_every_parameter_once(tmp_path):
    first, last = make_stages(BASE, SPLITS, torch.float32)
    hf.save_stage(first, tmp_path, 0, 2)
    with pytest.raises(CheckpointError, match="cannot be read"):
        hf.write_index(BASE, tmp_path, 2)
    hf.save_stage(first, tmp_path, 1, 2)
    with pytest.raises(CheckpointError, match="tensors in two shards"):
        hf.write_index(BASE, tmp_path, 2)
    hf.save_tensors({"lm_head.weight": last.head.weight}, tmp_path, 1, 2)
    with pytest.raises(CheckpointError, match="tensors in no shard"):
        hf.write_index(BASE, tmp_path, 2)
    assert not (tmp_path / hf.INDEX).exists()


def test_index_names_the_bytes_of_all_tensors(tmp_path):
    written = write(BASE, tmp_path)
    index = json.loads((tmp_path / hf.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in written.values())
    assert index["weight_map"].keys() == written.keys()


def test_an_old_index_never_reads_new_shards(tmp_path):
    write(BASE, tmp_path)
    first, _ = make_stages(BASE, SPLITS, torch.float32)
    hf.save_stage(first, tmp_path, 0, 2)
    with pytest.raises(CheckpointError, match="cannot be read"):
        hf.load_stage(empty_stages(BASE)[1], tmp_path)
    write(BASE, tmp_path)
    single = write(replace(BASE, tied=True), tmp_path, [range(2)])
    (stage,) = empty_stages(replace(BASE, tied=True), [range(2)])
    hf.load_stage(stage, tmp_path)
    assert all(torch.equal(p, single[n]) for n, p in stage.named_parameters())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write(BASE, tmp_path, [range(2)])
    before = (tmp_path / hf.SINGLE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as good as a full disk
    try:
        with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be written"):
            write(BASE, tmp_path, [range(2)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == [hf.SINGLE]
    assert (tmp_path / hf.SINGLE).read_bytes() == before


def test_a_place_that_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(BASE, tmp_path / "file", [range(2)])
