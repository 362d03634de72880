"""Packs conf/ and slurm/, which lie at the top of the repository, into the wheel; pyproject.toml says the rest."""

from setuptools import find_packages, setup

CARRIED = {"dist_plm.conf": "conf", "dist_plm.slurm": "slurm"}

setup(
    packages=[*find_packages(include=["dist_plm", "dist_plm.*"]), *CARRIED],
    package_dir={"dist_plm": "dist_plm", **CARRIED},
    package_data={
        "dist_plm.monitor.report_page": ["assets/*", "assets/uplot/*"],
        "dist_plm.conf": ["**/*.yaml"],
        "dist_plm.slurm": ["*.sbatch", "*.sh", "README.md"],
    },
)
