from pathlib import Path

from tests.conftest import HEAVY


def test_what_quick_leaves_out_is_there() -> None:
    assert [name for name in HEAVY if not (Path(__file__).parent / name).exists()] == []
