"""Run the experiments, and write what they found: `python experiments/run.py --help`."""

from runner.cli import main

if __name__ == "__main__":
    main()
