"""`python -m fmlora_lab` is `fmlora-lab`."""

from fmlora_lab.cli.main import main

main()
