"""Partitions are total, ties are declared, and initial values do not depend on the split."""

from dataclasses import replace

import pytest
import torch
from segment_runs import (
    BASE,
    CONFIGS,
    EXACT,
    gradients,
    make_batch,
    make_stages,
    plain_gradients,
    run_segments,
    worst_error,
)

from longpipe.errors import PlanError, RunError
from longpipe.ir import segments_from_lengths
from longpipe.model import (
    Build,
    DecoderStage,
    check_partition,
    make_stage,
    parameter_shapes,
    share_ties,
    ties,
)
from longpipe.model.split import holders

torch.set_num_threads(1)

TIED = replace(BASE, tied=True, layers=4)
FOUR = [range(1), range(1, 2), range(2, 4), range(4, 4)]


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ([range(2)], "end at layer 2 of 4"),
        ([], "end at layer 0 of 4"),
        ([range(2), range(3, 4)], "stage 1 holds layers 3 to 4, expected them to begin at 2"),
        ([range(3), range(2, 4)], "stage 1 holds layers 2 to 4, expected them to begin at 3"),
        ([range(2, 4), range(2)], "stage 0 holds layers 2 to 4"),
        ([range(5)], "end at layer 5 of 4"),
        ([range(0, 4, 2)], "stage 0"),
    ],
    ids=str,
)
def test_partitions_that_are_not_total(partition, message):
    with pytest.raises(PlanError, match=message):
        check_partition(TIED, partition)


def test_layers_that_the_model_does_not_have():
    with pytest.raises(PlanError, match="not among the 4 layers"):
        DecoderStage(TIED, range(3, 5))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_on_one_stage(name):
    config = replace(CONFIGS[name], layers=4)
    stages = make_stages(config, FOUR)
    found: dict[str, tuple[int, ...]] = {}
    for i, stage in enumerate(stages):
        for parameter_name, parameter in stage.named_parameters():
            assert parameter.shape == parameter_shapes(config)[parameter_name]
            found[parameter_name] = (*found.get(parameter_name, ()), i)
    assert found == holders(config, FOUR)
    doubled = {"model.embed_tokens.weight": (0, 3)} if config.tied else {}
    assert ties(config, FOUR) == doubled
    assert ties(config, [range(4)]) == {}


def test_initial_values_depend_on_name_and_seed_only():
    whole = dict(DecoderStage(TIED, range(4)).named_parameters())
    for i in range(4):
        for name, parameter in make_stage(TIED, FOUR, i).named_parameters():
            assert torch.equal(parameter, whole[name])
        for name, parameter in make_stage(TIED, FOUR, i, Build(torch.float64)).named_parameters():
            assert torch.equal(parameter.float(), whole[name])
    other = dict(DecoderStage(TIED, range(4), build=Build(seed=1)).named_parameters())
    same = [name for name in whole if torch.equal(whole[name], other[name])]
    assert all(name.endswith("norm.weight") for name in same)
    drawn = [p.flatten() for name, p in whole.items() if not name.endswith("norm.weight")]
    assert abs(torch.cat(drawn).std().item() - TIED.init_std) < 1e-3
    assert not torch.equal(drawn[1], drawn[2])


def test_ties_in_one_process_share_the_parameter():
    batch = make_batch(TIED, 1, 40)
    stages = make_stages(TIED, FOUR)
    _, expected = plain_gradients(stages, batch)
    share_ties(dict(enumerate(stages)))
    assert stages[0].model.embed_tokens.weight is stages[3].model.embed_tokens.weight
    run_segments(stages, batch, [30, 10], "late")
    found = gradients(stages[:3]) | gradients(stages[3:])
    assert worst_error(found, expected)[0] < EXACT


def test_ties_apart_are_left_alone():
    stages = make_stages(TIED, FOUR)
    share_ties({0: stages[0], 1: stages[1]})
    share_ties({1: stages[1], 3: stages[3]})
    assert stages[0].model.embed_tokens is not stages[3].model.embed_tokens


def test_input_missing():
    stage = make_stages(BASE, [range(1), range(1, 2)])[1]
    state = stage.open(make_batch(BASE, 1, 4))
    with pytest.raises(RunError, match="only the first stage"):
        stage(None, state, segments_from_lengths([4])[0])
