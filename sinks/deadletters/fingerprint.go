package deadletters

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"unicode"
)

var fingerprint32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Fingerprint is one token for all failures of a pipeline with an error of that type whose texts differ in values only: see
// [Template]. It is the same in every process and version.
func Fingerprint(pipeline, errorType, text string) string {
	sum := sha256.Sum256([]byte(pipeline + "\x00" + errorType + "\x00" + Template(text)))
	return fingerprint32.EncodeToString(sum[:5])
}

// maxTemplate bounds how much of a text counts.
const maxTemplate = 512

// Template is an error's text without what differs from one failure to the next: words that have a digit in them (numbers,
// ids, addresses, durations), and text in quotes, are a *. Of a long text the first 512 bytes count.
func Template(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxTemplate)], "")
	var b strings.Builder
	star := func() {
		if !strings.HasSuffix(b.String(), "*") {
			b.WriteByte('*')
		}
	}
	for i := 0; i < len(text); {
		if c := text[i]; c == '"' || c == '`' || c == '\'' && (i == 0 || !letter(text[i-1])) {
			if end := strings.IndexByte(text[i+1:], c); end >= 0 {
				star()
				i += end + 2
				continue
			}
		}
		n := strings.IndexFunc(text[i:], func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("()[]{}<>=,;\"'`", r) })
		if n < 0 {
			n = len(text) - i
		}
		if n == 0 {
			b.WriteByte(text[i])
			i++
			continue
		}
		if word := text[i : i+n]; strings.ContainsAny(word, "0123456789") {
			star()
			if strings.HasSuffix(word, ":") { // of a prefix, not of the value
				b.WriteByte(':')
			}
		} else {
			b.WriteString(word)
		}
		i += n
	}
	return b.String()
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
