"""The site's pages are the repository's own files where they lie, so that a link from one to
another works on the site, on a Git host and on disk alike. MkDocs calls this hook: mkdocs.yml."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "docs/*.css", "notebooks/*.ipynb", "figures/readme/*.png")


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, and the project's in the place of those in `docs_dir`."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    paths = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    own = [
        File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, config.use_directory_urls)
        for path in paths
    ]
    return Files([*theme, *own])
