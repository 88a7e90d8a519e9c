"""A server that fills holes over HTTP, and the page to paint them on."""
