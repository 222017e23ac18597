"""What runs on another machine: ``python agent.pyz COMMAND FOLDER``, with Python and a runtime, without kdcompress.

The file is a zip of kdcompress's own modules, so that the protocol is the same one. Its folder is all that it writes
to. Everything here but ``job`` has to be importable with nothing but the standard library.
"""
