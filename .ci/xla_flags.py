"""Prints the flags with which XLA compiles the small programs of tests quickly, for the jax that is installed.

Most of the time of a test is compiling, so LLVM's expensive passes are left out. jax 0.10's fusion emitters double the
time to compile for a CPU; later versions have no flag to turn them off, and refuse an unknown one.
"""

from importlib.metadata import version

FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
OLD_EMITTERS = ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]


def main() -> None:
    """Prints the flags on one line."""
    old = tuple(map(int, version("jax").split(".")[:2])) < (0, 11)
    print(*FLAGS, *(OLD_EMITTERS if old else []))


if __name__ == "__main__":
    main()
