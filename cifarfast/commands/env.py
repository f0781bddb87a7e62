"""``cifarfast env``: versions, GPU, and for each op which backend runs and why."""

from ..errors import UserError
from ..runs.environment import collect_environment
from .flags import run_main


def run_command(arguments: list[str]) -> int:
    """Print the environment; return the exit code."""
    if arguments and arguments not in (["--help"], ["-h"]):
        raise UserError(f"`env` takes no arguments, got {' '.join(arguments)!r}")
    if arguments:
        print("usage: cifarfast env\n\nPrint versions, GPU, and for each op which backend runs and why.")
        return 0
    environment = collect_environment()
    gpu = environment["gpu"]
    lines = {
        "cifarfast": f"{environment['cifarfast']} ({environment['commit'] or 'installed'})",
        "python": f"{environment['python']} on {environment['platform']}",
        **{name: version or "not installed" for name, version in environment["packages"].items()},
        "cpu": f"{environment['cpu']}, {environment['threads']} threads",
        "gpu": f"{gpu['name']}, CUDA {gpu['cuda']}, cuDNN {gpu['cudnn']}" if gpu else "none that torch can use",
        "csrc": environment["native"],
    }
    for name, text in lines.items():
        print(f"{name:<12} {text}")
    print("\nops")
    for op, choice in environment["backends"].items():
        print(f"  {op:<22} {choice['backend']:<7} {choice['reason']}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run_command, arguments)
