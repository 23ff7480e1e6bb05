"""mkdocs: which files of the repository are pages, at their own paths, so that links lead where they do on GitHub."""

from pathlib import Path

from mkdocs.structure.files import File, Files

PAGES = ("*.md", "docs/*.md", "examples/**/*.md")
BESIDE = ("LICENSE", "examples/**/*")  # what pages show and link to


def on_files(files, config):
    """The theme's files, and instead of those of ``docs_dir`` those of the repository.

    A folder that a page links to shows its README.md.
    """
    root = Path(config.config_file_path).parent
    found = {path for pattern in (*PAGES, *BESIDE) for path in root.glob(pattern) if path.is_file()}
    own = [file for file in files if not file.abs_src_path.startswith(config.docs_dir)]
    for path in sorted(found):
        name = path.relative_to(root).as_posix()
        if "__pycache__" not in name:
            own.append(File(name, str(root), config.site_dir, use_directory_urls=False))
    return Files(own)
