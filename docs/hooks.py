"""Show benchmarks/ as pages, so that results stand in one place."""

from pathlib import Path

from mkdocs.structure.files import File, Files

PAGES = ("benchmarks/README.md", "benchmarks/results/*.md", "benchmarks/figures/*")


def on_files(files: Files, config: dict) -> Files:
    """Add the pages and figures of the benchmarks."""
    root = Path(config["config_file_path"]).parent
    for pattern in PAGES:
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            files.append(File(name, str(root), config["site_dir"], config["use_directory_urls"]))
    return files
