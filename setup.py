"""What pyproject.toml cannot say: links into the repository are text on a package index, where they lead nowhere."""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
README = re.sub(r"^!\[.*?\]\((?!https?:).*?\)\n+", "", README, flags=re.MULTILINE)  # pictures go
README = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", README)

setup(long_description=README, long_description_content_type="text/markdown")
