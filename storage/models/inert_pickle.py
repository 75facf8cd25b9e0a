"""Pickles of checkpoints, read without running anything that they ask for.

What a pickle names is looked up in fixed lists and never imported. Containers and what tensors are made of are built;
classes that trainers put beside weights become empty stand-ins; so does any other class, which is then refused with
its place. No stand-in does anything, whatever is done to it.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from lavise.storage.state.text import printable

if TYPE_CHECKING:
    import torch

_MAX_NAME_CHARS = 120
_BUILTINS = ("builtins", "__builtin__")
# Of these nothing is built but an empty stand-in; the names are those seen in files of the trainers that write them.
_INERT_NAMES: Mapping[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "argparse": "Namespace",
        "types": "SimpleNamespace",
        "typing": "Any Union Optional List Dict Tuple",
        "enum": "Enum IntEnum",
        "functools": "partial",
        "copyreg": "_reconstructor",
        "copy_reg": "_reconstructor",
        "_codecs": "encode",
        "datetime": "datetime date time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "uuid": "UUID",
        "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
        "pathlib._local": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
        "collections": "deque",
        "numpy": "dtype ndarray float16 float32 float64 int8 int16 int32 int64 uint8 bool_ str_",
        "numpy.core.multiarray": "scalar _reconstruct",
        "numpy._core.multiarray": "scalar _reconstruct",
        "numpy.core.numeric": "_frombuffer",
        "numpy._core.numeric": "_frombuffer",
        "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
        "numpy.random._mt19937": "MT19937",
        "numpy.random._pcg64": "PCG64",
        "torch": (
            "device Size dtype Generator per_tensor_affine per_channel_affine per_tensor_symmetric "
            "per_channel_symmetric per_channel_affine_float_qparams"
        ),
        "torch.torch_version": "TorchVersion",
        "torch.serialization": "_get_layout",
        "torch.distributed.checkpoint.metadata": (
            "Metadata TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata TensorProperties MetadataIndex "
            "StorageMeta _MEM_FORMAT_ENCODING"
        ),
        "torch.distributed._shard.sharded_tensor.metadata": "TensorProperties MEM_FORMAT_ENCODING",
        "torch.distributed.checkpoint.filesystem": "_StorageInfo",
        "torch._utils": "_rebuild_qtensor _rebuild_meta_tensor_no_storage _rebuild_device_tensor_from_numpy",
        "omegaconf.dictconfig": "DictConfig",
        "omegaconf.listconfig": "ListConfig",
        "omegaconf.nodes": (
            "AnyNode BooleanNode BytesNode EnumNode FloatNode IntegerNode PathNode StringNode ValueNode "
            "InterpolationResultNode"
        ),
        "omegaconf.base": "ContainerMetadata Metadata Node SCMode Container",
        "mmengine.logging.history_buffer": "HistoryBuffer",
        "mmengine.config.config": "ConfigDict Config LazyAttr LazyObject",
        "mmcv.utils.config": "ConfigDict Config",
        "fastcore.foundation": "L",
        "addict.addict": "Dict",
        "easydict": "EasyDict",
        "munch": "Munch",
        "yacs.config": "CfgNode",
        "ml_collections.config_dict.config_dict": "ConfigDict FrozenConfigDict FieldReference",
        "lightning.fabric.utilities.data": "AttributeDict",
        "lightning_fabric.utilities.data": "AttributeDict",
        "pytorch_lightning.utilities.parsing": "AttributeDict",
        "lightning.pytorch.utilities.parsing": "AttributeDict",
        "composer.core.time": "Time Timestamp TimeUnit",
        "torchvision.transforms.functional": "InterpolationMode",
    }.items()
}
_INERT_BUILTINS = frozenset("getattr complex slice range object type print bytes bytearray".split())
_PLAIN_BUILTINS: Mapping[str, Any] = {
    "set": set,
    "frozenset": frozenset,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "int": int,
    "long": int,
    "float": float,
    "str": str,
    "unicode": str,
    "bool": bool,
}


class RefusedClassError(Exception):
    """A pickle holds an object of a class that is on no list.

    Attributes:
        name: of the class, printable.
        key: dotted, under which it stands; "" at the root or where that cannot be told.
        content: everything else that the pickle holds, with stand-ins.
    """

    def __init__(self, name: str, key: str, content: Any) -> None:
        super().__init__(f"{name} under {key!r}" if key else name)
        self.name, self.key, self.content = name, key, content


class Inert:
    """Stands for an object that is not built; takes whatever an unpickler does to it, and keeps its state."""

    origin = ""
    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return Inert(*args)

    def __setitem__(self, key: Any, value: Any) -> None:
        """An item of a mapping that is not built."""

    def append(self, value: Any) -> None:
        """An item of a list that is not built."""

    def extend(self, values: Any) -> None:
        """Items of a list that is not built."""

    def add(self, value: Any) -> None:
        """An item of a set that is not built."""

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Foreign(Inert):
    """Stands for an object of a class that is on no list."""


class _Mapping(dict[Any, Any]):
    """A Counter or defaultdict: what it holds, without what it does."""

    def __init__(self, *args: Any) -> None:
        super().__init__(args[0] if args and isinstance(args[0], dict) else {})


@dataclass(frozen=True)
class StorageKind:
    """What a persistent id names as the kind of a storage.

    Attributes:
        dtype: of its numbers; None where bytes are counted.
    """

    dtype: torch.dtype | None


# Of a persistent id as torch writes it: the storage that it stands for.
LoadStorage = Callable[[tuple[Any, ...]], Any]


def load_pickle(file: IO[bytes], load_storage: LoadStorage, passed_over: Collection[str] = ()) -> Any:
    """The next pickle of a file.

    Args:
        passed_over: keys below which objects of any class stay stand-ins, since nobody asks for what is there.

    Raises:
        RefusedClassError: it holds an object of a class that is on no list.
        pickle.UnpicklingError, EOFError and others: it is damaged, or no pickle.
    """
    unpickler = _Unpickler(file, load_storage)
    try:
        content = unpickler.load()
    except Exception:
        if not unpickler.foreign:
            raise
        content = None  # something was to be made by a class that was refused
    if unpickler.foreign:
        if content is None:
            raise RefusedClassError(unpickler.foreign[0], "", content)
        if found := _find_foreign(content, passed_over):
            raise RefusedClassError(*found, content)
    return content


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], load_storage: LoadStorage) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self._load_storage = load_storage
        self._classes: dict[tuple[str, str], Any] = {}
        self.foreign: list[str] = []

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or not pid:
            raise pickle.UnpicklingError("a persistent id is no tuple")
        return self._load_storage(pid)

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """From the lists; nothing is imported."""
        known = (module_name, global_name)
        if known not in self._classes:
            self._classes[known] = self._find(module_name, global_name)
        return self._classes[known]

    def _find(self, module: str, name: str) -> Any:
        found = _find_known(module, name)
        if found is not None:
            return found
        origin = printable(f"{module}.{name}")[:_MAX_NAME_CHARS]
        is_inert = name in _INERT_NAMES.get(module, ()) or (module in _BUILTINS and name in _INERT_BUILTINS)
        if not is_inert:
            self.foreign.append(origin)
        return type("StandIn", (Inert if is_inert else Foreign,), {"origin": origin})


def _find_known(module: str, name: str) -> Any:
    """What is really built: containers, numbers, tensors."""
    import torch

    if module in _BUILTINS:
        return _PLAIN_BUILTINS.get(name)
    if module == "collections":
        return {"OrderedDict": OrderedDict, "Counter": _Mapping, "defaultdict": _Mapping}.get(name)
    if module in ("torch._utils", "torch._tensor"):
        return {
            "_rebuild_tensor_v2": _rebuild_tensor,
            "_rebuild_tensor": _rebuild_tensor,
            "_rebuild_parameter": _rebuild_parameter,
            "_rebuild_parameter_with_state": _rebuild_parameter,
        }.get(name)
    if module in ("torch", "torch.cuda", "torch.storage") and name.endswith("Storage"):
        return _find_storage_kind(name)
    if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
        return vars(torch)[name]
    return None


def _find_storage_kind(name: str) -> StorageKind | None:
    import torch

    if name == "UntypedStorage":
        return StorageKind(None)
    kinds = {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
        "QInt8": torch.qint8,
        "QUInt8": torch.quint8,
        "QInt32": torch.qint32,
    }
    dtype = kinds.get(name.removesuffix("Storage"))
    return StorageKind(dtype) if dtype is not None else None


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    """A tensor over a storage; torch itself checks that it lies within."""
    import torch

    if not isinstance(storage, torch.Tensor):
        return Inert()
    return torch.as_strided(storage, tuple(size), tuple(stride), int(offset))


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


def _find_foreign(content: Any, passed_over: Collection[str]) -> tuple[str, str] | None:
    """Class and dotted key of the first object, or class, that is on no list and is not passed over."""
    for key, value in walk(content):
        if any(part in passed_over for part in key.split(".")):
            continue
        if isinstance(value, Foreign):
            return value.origin, key
        if isinstance(value, type) and issubclass(value, Foreign):
            return value.origin, key
    return None


def walk(content: Any) -> Iterator[tuple[str, Any]]:
    """Everything in a structure with its dotted key, each object once; stand-ins are looked into."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        key, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield key, value
        inner: list[tuple[Any, Any]] = []
        if isinstance(value, Mapping):
            inner = list(value.items())
        elif isinstance(value, list | tuple | set | frozenset):
            inner = list(enumerate(value))
        elif isinstance(value, Inert):
            arguments, state = vars(value).get("arguments", ()), value.state
            inner = [*enumerate(arguments), *(state.items() if isinstance(state, dict) else [("state", state)])]
        waiting += [(_join(key, name), item) for name, item in reversed(inner)]


def _join(key: str, name: Any) -> str:
    shown = printable(str(name))[:_MAX_NAME_CHARS] if isinstance(name, str | int) else "?"
    return f"{key}.{shown}" if key else shown
