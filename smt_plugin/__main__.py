"""`python -m smt_plugin` is `smt`."""

from smt_plugin.cli.app import main

main()
