"""Dependencies from requirements.txt, the one list of them: what is below its line `# tests` is the extra `test`.

Ray, which only a cluster needs, mcp, for programs that speak its protocol, and what sends traces stand here.
"""

from pathlib import Path

from setuptools import setup

runtime, tests = (Path(__file__).parent / "requirements.txt").read_text("utf-8").split("# tests\n")
setup(
    install_requires=runtime.split("\n"),
    extras_require={
        "test": tests.split("\n"),
        "ray": ["ray[data]>=2.49,<2.64"],
        "mcp": ["mcp>=1.21,<2"],
        "traces": ["opentelemetry-distro>=0.50b0,<1", "opentelemetry-exporter-otlp-proto-http>=1.30,<2"],
    },
)
