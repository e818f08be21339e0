package fakeokta

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
)

const (
	bombSize  = 1 << 30 // bytes of a body that nobody should read to its end
	bombStart = `{"access_token":"`
	bombPiece = 1 << 20
)

// huge is a JSON string that ends after a gigabyte, made while it is read.
func huge() io.Reader {
	return io.MultiReader(strings.NewReader(bombStart), repeated(bytes.Repeat([]byte("a"), bombPiece), bombSize/bombPiece))
}

// gzipBomb is huge in a megabyte of gzip: members one after the other, which unpack as one stream (RFC 1952, section 2.2).
func gzipBomb(string) (Fault, error) {
	start, err := packed([]byte(bombStart))
	if err != nil {
		return Fault{}, err
	}
	piece, err := packed(bytes.Repeat([]byte("a"), bombPiece))
	if err != nil {
		return Fault{}, err
	}
	return Fault{
		Status: http.StatusOK,
		Stream: func() io.Reader { return io.MultiReader(bytes.NewReader(start), repeated(piece, bombSize/bombPiece)) },
		Header: http.Header{"Content-Encoding": {"gzip"}},
	}, nil
}

func packed(plain []byte) ([]byte, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(plain)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	return b.Bytes(), nil
}

func repeated(piece []byte, times int) io.Reader {
	readers := make([]io.Reader, times)
	for i := range readers {
		readers[i] = bytes.NewReader(piece)
	}
	return io.MultiReader(readers...)
}
