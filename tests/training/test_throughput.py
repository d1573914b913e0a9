"""The benchmark of throughput needs a GPU; that it works is shown without one."""

from pathlib import Path

import pytest

from benchmarks import throughput


@pytest.mark.slow
def test_throughput_is_measured_packed_and_unpacked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    throughput.main(["--model", "tiny", "--steps", "8", "--skip", "2", "--folder", str(tmp_path)])
    packed, unpacked = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[-2:]]
    assert float(packed[4].rstrip("%")) > 97 > float(unpacked[4].rstrip("%"))
    assert all(int(row[5].replace(",", "")) > 0 for row in (packed, unpacked))
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_logs_too_few_steps_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "logged", lambda command: iter([(0.0, 1, 1), (1.0, 2, 2)]))
    monkeypatch.setattr(throughput, "write_axolotl_config", lambda *arguments: "axolotl.yaml")
    with pytest.raises(SystemExit, match="logged 2 steps, of which 1 do not count"):
        throughput.train(*(None,) * 3, {}, 1)  # type: ignore[arg-type]
