"""The command line: what a person types and reads. It asks the daemon, and computes nothing.

`main` is the way in and stays light: `status` answers without Typer, Rich or the database's
libraries. `app` has the commands, `reading`, `acting` and `running` do them, `client` and `launch`
know the daemon's socket and process, `follow` watches one job, `render`, `spend`, `bars`,
`words` and `text` draw.
"""
