"""Engines: a runtime's own files with a manifest that says what they are.

`registry.BACKENDS` is the list of runtimes; `folder` builds and opens engine folders.
"""
