"""Installs keras_autoshrink (the search) and tflite_export (the way to the phone)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# There are nightly builds for this system alone.
MICRO = "tflite-micro>=0.dev20260101; sys_platform == 'linux' and platform_machine == 'x86_64'"

setup(
    name="keras_autoshrink",
    version="0.1.0",
    description="Find small neural networks with KerasTuner and ship them as checked .tflite files",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # So that an editable install puts this folder on the path. Else a finder of setuptools' comes
    # after the path, where a script beside a clone called keras_autoshrink finds that clone first.
    package_dir={"": "."},
    packages=find_packages(include=["keras_autoshrink*", "tflite_export*"]),
    package_data={
        "keras_autoshrink": ["py.typed", "report/web/*"],
        "tflite_export": ["py.typed", "web/*"],
    },
    python_requires=">=3.10",
    install_requires=[
        "ai-edge-litert>=2.1",
        "cloudpickle>=3",
        "filelock>=3.12",
        "flatbuffers>=24.3.25",
        "grpcio>=1.60",
        "joblib>=1.3",
        # The first with model.export(format="litert").
        "keras>=3.13",
        "keras-tuner>=1.4.8",
        "matplotlib>=3.8",
        "networkx>=3.1",
        "numpy>=1.26",
        "pillow>=10",
        "rich>=13",
        "scikit-learn>=1.3",
        "tensorflow>=2.19",
        "tensorflow-datasets>=4.9.4",
        "threadpoolctl>=3",
        # KerasTuner imports six, and every trial imports tensorboard; it declares neither.
        "six>=1.16",
        "tensorboard>=2.19",
        # tensorflow-datasets imports it and declares it for old Pythons only.
        "importlib_resources>=6",
    ],
    extras_require={
        "optimize": ["tensorflow-model-optimization>=0.8", "tf_keras>=2.19"],
        "gpu": ["tensorflow[and-cuda]>=2.19"],
        "jax": ["jax>=0.4.35"],
        "micro": [MICRO],
        "tutorials": ["jupyterlab>=4", "pandas>=2"],
        "dev": [
            # The documentation's look.
            "furo>=2024.8.6",
            "hypothesis>=6.100",
            # The tests search on it without TensorFlow.
            "jax>=0.4.35",
            "mypy>=1.10",
            "myst-parser>=4",
            # `make docs` runs the tutorials.
            "ipykernel>=6.29",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pandas>=2",
            "psutil>=6",
            "scipy>=1.11",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "sphinx>=8.1",
            # As for the extra "optimize".
            "tensorflow-model-optimization>=0.8",
            "tf_keras>=2.19",
            # As for the extra "micro".
            MICRO,
        ],
    },
    entry_points={"console_scripts": ["autoshrink=keras_autoshrink.commands.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
