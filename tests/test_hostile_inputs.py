"""Some hundred of the hostile inputs that `tests/hostile.py` makes; run as a program, that tries all of them."""

import pytest

from tests.hostile import Case, World, cases, load, other_cases, sample

KINDS = (
    "bytes",
    "node",
    "key",
    "yaml",
    "run key",
    "shard",
    "number",
    "word",
    "setting",
    "prompt",
    "zip",
    "target",
    "full",
    "open files",
    "large",
)
MOST = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A whole run, which is put back before each case."""
    load()
    return World(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def chosen(world: World) -> list[Case]:
    """The cases that are tried here."""
    return sample([*cases(world.folder), *other_cases(world.folder)], MOST)


def test_every_kind_of_hostile_input_is_tried(chosen: list[Case]) -> None:
    assert {case.kind for case in chosen} == set(KINDS)
    assert len(chosen) > 400


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_input_ends_in_one_short_sentence_and_changes_nothing(
    world: World, chosen: list[Case], kind: str
) -> None:
    found = {case.name: world.faults(case) for case in chosen if case.kind == kind}
    assert {name: faults for name, faults in found.items() if faults} == {}
