# make run   builds and starts the sandbox: the broker with a fake Okta
# make test  runs the whole test suite
# make lint  formats, vets and lints
# make bench measures the broker against bare net/http handlers and raw signing
# make fuzz  runs each fuzz target for FUZZTIME

GO     ?= go
BINARY := .build/okta-token-broker
PORT   ?= 5000
FUZZTIME ?= 10s

# The race detector needs a C compiler.
CC_FOUND := $(shell command -v $${CC:-cc} 2>/dev/null)
RACE     := $(if $(CC_FOUND),-race)

.PHONY: build run test lint bench fuzz clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o $(BINARY) ./cmd/okta-token-broker

run: build
	@$(BINARY) sandbox $(PORT)

test:
	@$(if $(RACE),,echo 'no C compiler found: testing without the race detector')
	CGO_ENABLED=$(if $(RACE),1,0) $(GO) test $(RACE) -timeout 15m ./...

lint:
	@test -z "$$(gofmt -l api cmd internal | tee /dev/stderr)" || { echo 'run gofmt -w on these files' >&2; exit 1; }
	$(GO) vet ./...
	$(GO) build -modfile=.ci/tools.mod -o .build/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	.build/golangci-lint run ./...

bench:
	$(GO) test -run '^$$' -bench . -benchtime 3s -timeout 10m ./internal/httpapi ./internal/tokens ./internal/keys

fuzz:
	bash .ci/fuzz $(FUZZTIME)

clean:
	rm -rf .build
