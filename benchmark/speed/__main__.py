"""`python -m speed`."""

from speed.cli import app

if __name__ == "__main__":
    app()
