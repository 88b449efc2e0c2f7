"""Programs that tests start as processes of their own, and kill."""

from pathlib import Path

PROGRAMS = Path(__file__).parent
