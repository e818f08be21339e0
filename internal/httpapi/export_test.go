package httpapi

// NewServer lets a benchmark put another handler behind Serve's settings.
var NewServer = newServer
