"""The subcommands of `agent.pyz`, one a module, each with one `run(arguments)`."""
