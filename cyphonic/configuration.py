"""Configuration is a frozen value, put together once: flag, then ``CYPHONIC_*`` variable, then TOML file, then
default.

A section is a frozen ``msgspec.Struct``; its fields are the keys.  The variable of key ``as_listen`` in section
``frontend`` is ``CYPHONIC_FRONTEND_AS_LISTEN``; a list in a variable is separated by commas.  A ``Path`` from a
file is relative to that file, an ``Endpoint`` is written ``192.0.2.1:443`` or ``[2001:db8::1]:443``.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cyphonic.errors import ConfigurationError
from cyphonic.wire.endpoint import Endpoint

SectionT = TypeVar("SectionT", bound=msgspec.Struct)

CONFIG_VARIABLE = "CYPHONIC_CONFIG"


def choose_file(flag: Path | None, environ: Mapping[str, str], default: Path) -> Path | None:
    """Which file to read: ``--config``, else ``CYPHONIC_CONFIG``, else the default, else None when that is absent.

    A file that was asked for must exist; that is checked when it is read.
    """
    if flag is not None:
        return flag
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return default if default.exists() else None


def read_toml(file: Path) -> dict[str, Any]:
    """The whole file.  Raise ConfigurationError for a file that cannot be read or is not TOML."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{file}: there is no such file") from None
    except PermissionError:
        raise ConfigurationError(
            f"{file}: no permission to read it", "run as root or as the service's user"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: not valid TOML: {error}") from None


def check_sections(file: Path, known: Iterable[str]) -> None:
    """Raise ConfigurationError for a section that nobody reads: most likely a slip of the pen."""
    names = list(known)
    for name in read_toml(file):
        if name not in names:
            raise ConfigurationError(f"{file}: [{name}] is not a known section", _did_you_mean(name, names))


def load(
    section_type: type[SectionT],
    *,
    section: str,
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, Any] | None = None,
) -> SectionT:
    """One section as a value.

    ``flags`` are options from the command line by field name; None stands for one that was not given.
    Raise ConfigurationError that names the source, the key and the reason.
    """
    table: Any = read_toml(file).get(section, {}) if file is not None else {}
    if not isinstance(table, dict):
        raise ConfigurationError(f"{file}: {section} is not a [section]")
    types = typing.get_type_hints(section_type)
    for key in table:
        if key not in types:
            raise ConfigurationError(f"{file}: [{section}] has no key {key!r}", _did_you_mean(key, types))
    values: dict[str, Any] = {}
    for name, wanted in types.items():
        variable = f"CYPHONIC_{section}_{name}".upper()
        if (flag := (flags or {}).get(name)) is not None:
            values[name] = _convert(flag, wanted, f"--{name.replace('_', '-')}", None)
        elif variable in environ:
            values[name] = _convert(environ[variable], wanted, variable, None)
        elif name in table:
            values[name] = _convert(table[name], wanted, f"{file}: [{section}] {name}", file)
    return _build(section_type, values, f"{file or 'configuration'}: [{section}]")


def _build(section_type: type[SectionT], values: dict[str, Any], where: str) -> SectionT:
    for field in msgspec.structs.fields(section_type):
        if field.required and field.name not in values:
            raise ConfigurationError(f"{where} {field.name}: missing, and it has no default")
    try:
        return section_type(**values)
    except ValueError as error:
        raise ConfigurationError(f"{where} {error}") from None


def _convert(value: Any, wanted: Any, where: str, file: Path | None) -> Any:
    """``value`` as ``wanted``; text is also read as number, truth value or comma-separated list."""
    try:
        return _as_type(value, wanted, file)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _as_type(value: Any, wanted: Any, file: Path | None) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if type(None) in arguments:
        wanted = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _as_type(value, wanted, file)
    if origin in (list, tuple):
        items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ValueError(f"expected a list, got {value!r}")
        return origin(_as_type(item, arguments[0], file) for item in items)
    if wanted is Endpoint:
        return value if isinstance(value, Endpoint) else Endpoint.parse(_text(value))
    if wanted is Path:
        path = value if isinstance(value, Path) else Path(_text(value))
        return path if file is None else file.absolute().parent / path
    from_file = file is not None
    return msgspec.convert(value, wanted, strict=from_file)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {value!r}")
    return value


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else "known are: " + ", ".join(names)
