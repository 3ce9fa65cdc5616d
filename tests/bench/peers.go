// peers.go: Go's net/http, as a peer.
//
//	peers PROGRAM
//
// Serves /hello in process, /cgi by net/http/cgi with PROGRAM, and /file?path=PATH as Go's classic
// example of noticing a hangup: the file is made, work is waited for, and when the context is
// cancelled the file is removed. Listens on a free port of 127.0.0.1 and prints its number.
package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"time"
)

func hello(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, "hello\n")
}

func file(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	f.Close()
	select {
	case <-time.After(time.Hour):
		fmt.Fprint(w, "made\n")
	case <-r.Context().Done():
		os.Remove(path)
	}
}

func main() {
	http.HandleFunc("/hello", hello)
	http.HandleFunc("/file", file)
	http.Handle("/cgi", &cgi.Handler{Path: os.Args[1]})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		fmt.Println(listener.Addr().(*net.TCPAddr).Port)
		err = http.Serve(listener, nil)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
