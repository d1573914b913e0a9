"""Whether a merged model holds an adapter, by what lies in their files: the merge itself notes nothing."""

import math
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LOOKED_AT = 3  # modules
_TOLERANCE = 0.02  # our choice: an adapter that was trained otherwise is off by far more
_ERRORS = 6  # standard errors


def may_hold(merged: Path, adapter: Path) -> bool:
    """Whether the merged model is the base model and this adapter; True where that cannot be told.

    Of some modules, what merging added to the base model's weights is compared with the product of the adapter's two
    matrices. It cannot be told where the base model is not here, nor for adapters that add otherwise (DoRA) or to
    quantized weights (qLoRA).
    """
    with suppress(OSError, ValueError, KeyError, TypeError, ImportError, struct.error):
        return all(abs(share - 1) < _TOLERANCE + _ERRORS * error for share, error in shares(merged, adapter))
    return True


def shares(merged: Path, adapter: Path) -> list[tuple[float, float]]:
    """Of some modules, the part of what the adapter adds that the merged model has, with its standard error.

    It is 1 for the adapter that the model was made of.
    """
    import numpy as np

    settings = orjson.loads((adapter / "adapter_config.json").read_bytes())
    if settings.get("use_dora") or settings.get("rank_pattern") or settings.get("alpha_pattern"):
        raise ValueError("it adds otherwise")
    rank = settings["r"]
    scale = settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    names = sorted(name for name in _header(adapter / ADAPTER_FILE)[0] if name.endswith(".lora_A.weight"))
    found = []
    for name in names[:: max(1, len(names) // _LOOKED_AT)]:
        first, second = (
            _tensor(adapter / ADAPTER_FILE, name.replace("lora_A", letter)) for letter in ("lora_A", "lora_B")
        )
        weight = name.removeprefix(_PREFIX).replace(".lora_A", "")
        base, whole = _weight(settings["base_model_name_or_path"], weight), _weight(str(merged), weight)
        has = whole.numbers - base.numbers
        # What is too small for the merged model's numbers is not to be found in it.
        added = whole.rounded(base.numbers + scale * second.numbers @ first.numbers) - base.numbers
        if size := float(np.vdot(added, added)):
            share = float(np.vdot(has, added)) / size
            found.append((share, float(np.std(has - share * added)) / math.sqrt(size)))
    return found


def _weight(model: str, name: str) -> "_Tensor":
    """A weight of a model, a folder or the hub's that was fetched before, be it in one file or in several."""
    if index := model_file(model, "model.safetensors.index.json"):
        return _tensor(_of(model, orjson.loads(index.read_bytes())["weight_map"][name]), name)
    return _tensor(_of(model, "model.safetensors"), name)


def _of(model: str, name: str) -> Path:
    if (path := model_file(model, name)) is None:
        raise FileNotFoundError(name)
    return path


def model_file(model: str, name: str) -> Path | None:
    """A file of a model, a folder or the hub's that was fetched before; None where it has none."""
    if Path(model).is_dir():
        return Path(model, name) if Path(model, name).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):
        cached = try_to_load_from_cache(model, name)
        return Path(cached) if isinstance(cached, str) else None
    return None


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file, and where their numbers begin."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return orjson.loads(file.read(size)), 8 + size


@dataclass(frozen=True, slots=True)
class _Tensor:
    kind: str
    numbers: "NDArray[np.float32]"

    def rounded(self, numbers: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """Numbers as this tensor's kind holds them."""
        import numpy as np

        if self.kind == "F16":
            return numbers.astype(np.float16).astype(np.float32)
        if self.kind == "BF16":  # to the nearest, of two to the even one
            bits = numbers.astype(np.float32).view(np.uint32)
            return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)
        return numbers


def _tensor(path: Path, name: str) -> _Tensor:
    """One tensor of a safetensors file, without torch, which is not wherever a report is made."""
    import numpy as np

    header, begin = _header(path)
    entry = header[name]
    start, end = entry["data_offsets"]
    kind, kinds = entry["dtype"], {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    with path.open("rb") as file:
        file.seek(begin + start)
        numbers = np.frombuffer(file.read(end - start), kinds[kind])
    if kind == "BF16":
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    return _Tensor(kind, numbers.astype(np.float32).reshape(entry["shape"]))
