"""Lists the compiled extensions and finds out, by running a program, whether OpenMP works here.

Environment switches, read at build time:

``SLIDE_DEBUG=1``
    Bounds checks in every kernel, assertions on every row id, no optimisation.
``SLIDE_NATIVE=1``
    ``-march=native``: the binary then runs on this kind of processor only.
``SLIDE_FLAGS="-O1 -g"``
    For compiler and linker, behind all other flags; ``tools/sanitize.py`` and ``tools/mutation.py`` have theirs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.errors import CompileError, LinkError
from setuptools._distutils.sysconfig import customize_compiler
from setuptools.command.build_ext import build_ext

KERNELS = [
    "memory",
    "pagebench",
    "parallel",
    "hashing",
    "tables",
    "sampling",
    "active",
    "grouping",
    "catch_up",
    "sparse",
    "sparse_input",
    "optim",
    "gradients",
    "hogwild",
    "losses",
    "loss_parts",
    "dropout",
    "dense",
    "search",
    "sketch",
    "neighbours",
    "roofline",
    "rows",
    "text",
]

DEBUG = os.environ.get("SLIDE_DEBUG", "0") == "1"
NATIVE = os.environ.get("SLIDE_NATIVE", "0") == "1"
FLAGS = os.environ.get("SLIDE_FLAGS", "").split()

OPENMP_PROGRAM = """
#include <omp.h>
int main(void) {
    int sum = 0;
    #pragma omp parallel for reduction(+:sum) num_threads(2)
    for (int i = 0; i < 10; i++) sum += i;
    return sum == 45 && omp_get_max_threads() > 0 ? 0 : 1;
}
"""


def openmp_flags():
    """Return (compile flags, link flags) with which an OpenMP program compiles, links and runs, else ([], [])."""
    if sys.platform == "darwin":
        candidates = [(["-Xpreprocessor", "-fopenmp"], ["-lomp"]), (["-fopenmp"], ["-fopenmp"])]
    else:
        candidates = [(["-fopenmp"], ["-fopenmp"])]
    for compile_flags, link_flags in candidates:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(OPENMP_PROGRAM)
            compiler = new_compiler()
            customize_compiler(compiler)
            try:
                objects = compiler.compile([str(source)], output_dir=folder, extra_postargs=compile_flags)
                compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=link_flags)
                subprocess.run([str(Path(folder, "probe"))], check=True, timeout=60)
            except (CompileError, LinkError, OSError, subprocess.SubprocessError):
                continue
            return compile_flags, link_flags
    print("slide: no working OpenMP found; the kernels will run on one thread", file=sys.stderr)
    return [], []


def extensions():
    """Return the extensions as they are in the source."""
    simd = Path("slide", "kernels", "simd")
    return [
        Extension(
            f"slide.kernels.{name}",
            [f"slide/kernels/{name}.pyx"],
            include_dirs=[str(simd)],
            depends=[str(path) for path in sorted(simd.glob("*.h"))],
        )
        for name in KERNELS
    ]


class BuildKernels(build_ext):
    """Cythonizes and looks for OpenMP only when there is something to compile: not for metadata or an sdist."""

    def run(self):
        """Compile all kernels."""
        from Cython.Build import cythonize

        openmp_compile, openmp_link = openmp_flags()
        # Python's own flags ask for debugging information, four fifths of a binary's size.
        flags = ["-O1", "-g", "-DSLIDE_DEBUG"] if DEBUG else ["-O3", "-g0"]
        # errno and trap semantics keep sqrt and comparisons from vectorising; values are unaffected.
        flags += ["-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-Wno-unknown-pragmas"]
        if NATIVE:
            flags.append("-march=native")
        cythonized = cythonize(
            self.extensions,
            nthreads=0 if sys.platform == "darwin" else (os.cpu_count() or 1),
            compiler_directives={
                "language_level": 3,
                "boundscheck": DEBUG,
                "wraparound": False,
                "initializedcheck": DEBUG,
                "cdivision": True,
                "embedsignature": True,
                # What kernels share is under a lock of their own; where there is no GIL they do not bring it back.
                "freethreading_compatible": True,
            },
        )
        sources = {extension.name: extension.sources for extension in cythonized}
        # setuptools has made notes on its own objects, so these stay.
        for extension in self.extensions:
            extension.sources = sources[extension.name]
            extension.extra_compile_args = flags + openmp_compile + FLAGS
            extension.extra_link_args = openmp_link + FLAGS
        super().run()


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
