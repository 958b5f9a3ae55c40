"""`dmphn serve`: a web page and an HTTP interface to one network, on one device.

`engine` is the thread that computes, `pictures` and `films` the work on files, `uploads` what comes
in, `access` who may, `api` the addresses, `service` all of it together, `server` the sockets;
`page/` is what a browser gets.
"""
