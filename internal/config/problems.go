package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// origin is where a setting got its value: a line of the file, or a variable of
// the environment. The zero origin is a default.
type origin struct {
	line     int
	variable string
}

// problem is one thing that is wrong. Its text holds no value that somebody
// configured, except names of keys.
type problem struct {
	path string // as in clients.default.issuer
	from origin
	text string
}

type problems []problem

// maxProblems bounds what is reported at once.
const maxProblems = 100

func (p *problems) addf(path string, from origin, format string, args ...any) {
	if len(*p) == maxProblems {
		*p = append(*p, problem{text: fmt.Sprintf("more than %d problems: the rest is not shown", maxProblems), from: origin{line: math.MaxInt}})
	}
	if len(*p) > maxProblems {
		return
	}
	*p = append(*p, problem{path, from, fmt.Sprintf(format, args...)})
}

// err puts all problems into one error, a line each.
func (p problems) err(file string) error {
	return errors.New("the configuration is wrong:\n  " + strings.Join(p.lines(file), "\n  "))
}

// lines describes each problem in a line, in the file's order.
func (p problems) lines(file string) (lines []string) {
	slices.SortStableFunc(p, func(a, b problem) int { return cmp.Compare(a.from.line, b.from.line) })
	for _, problem := range p {
		where := problem.from.variable
		switch {
		case problem.from.line == math.MaxInt:
		case problem.from.line > 0:
			where = fmt.Sprintf("%s:%d", file, problem.from.line)
		case where == "" && problem.path == "":
			where = file
		}
		parts := slices.DeleteFunc([]string{where, problem.path, problem.text}, func(s string) bool { return s == "" })
		lines = append(lines, strings.Join(parts, ": "))
	}
	return lines
}

// suggestion names the known name that a mistyped one is closest to.
func suggestion(name string, known []string) string {
	best, least := "", min(3, len(name)) // more than two edits is another word
	for _, candidate := range known {
		if edits := distance(name, candidate); edits < least {
			best, least = candidate, edits
		}
	}
	if best == "" {
		return ": known are " + strings.Join(known, ", ")
	}
	return ": did you mean " + best + "?"
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
