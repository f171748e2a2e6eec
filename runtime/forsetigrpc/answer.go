package forsetigrpc

import (
	"fmt"
	"reflect"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/forseti-go/forseti/messages"
)

// Answer is the value that a unary call has in its pipeline: what Retry.OnResult, Breaker.Classify and Hedge.Accept are
// given, and what a Cache keeps. It must not be changed, for others may be given it too. A fallback may return one, to
// answer with a status.
type Answer struct {
	Message any   // the reply; not to be looked at when there is an Err
	Err     error // a status that is an answer, NotFound say; nil for a reply

	header, trailer metadata.MD // if they were asked for
	peer            peer.Peer
}

// messageType makes empty messages of the type that a caller wants its reply in. It does not look at that reply again: a
// copy of a hedge may start when the caller has it already.
type messageType struct {
	proto protoreflect.MessageType // nil for what is no protocol buffer
	other reflect.Type             // then: what the reply points to
}

// typeOf is the type of like; false when others of it cannot be made.
func typeOf(like any) (messageType, bool) {
	if m, ok := like.(proto.Message); ok {
		return messageType{proto: m.ProtoReflect().Type()}, true
	}
	t := reflect.TypeOf(like)
	if t == nil || t.Kind() != reflect.Pointer {
		return messageType{}, false
	}
	return messageType{other: t.Elem()}, true
}

func (t messageType) empty() any {
	if t.proto != nil {
		return t.proto.New().Interface()
	}
	return reflect.New(t.other).Interface()
}

// copyMessage makes to what from is; nil is the empty message. Protocol buffers are copied as a whole, because an answer
// that was kept is given to several; of other types the value behind the pointer is copied.
func copyMessage(to, from any) error {
	if m, ok := to.(proto.Message); ok {
		if from == nil {
			proto.Reset(m)
			return nil
		}
		if f, ok := from.(proto.Message); ok && f.ProtoReflect().Descriptor() == m.ProtoReflect().Descriptor() {
			proto.Reset(m)
			proto.Merge(m, f)
			return nil
		}
	} else if v := reflect.ValueOf(to); v.Kind() == reflect.Pointer {
		if from == nil {
			v.Elem().SetZero()
			return nil
		}
		if f := reflect.ValueOf(from); f.Type() == v.Type() && !f.IsNil() {
			v.Elem().Set(f.Elem())
			return nil
		}
	}
	return &messages.TypeError{By: "the pipeline", Want: fmt.Sprintf("%T", to), Got: fmt.Sprintf("%T", from)}
}

// capture returns the options of an attempt: those of the call, with places of the attempt's own for what gRPC writes
// into the caller's, and without those that are told when the call is over.
func (a *Answer) capture(opts []grpc.CallOption) []grpc.CallOption {
	own := make([]grpc.CallOption, 0, len(opts))
	for _, o := range opts {
		switch o.(type) {
		case grpc.HeaderCallOption:
			o = grpc.Header(&a.header)
		case grpc.TrailerCallOption:
			o = grpc.Trailer(&a.trailer)
		case grpc.PeerCallOption:
			o = grpc.Peer(&a.peer)
		case grpc.OnFinishCallOption:
			continue
		}
		own = append(own, o)
	}
	return own
}

// captures reports whether any of the options must be an attempt's own.
func captures(opts []grpc.CallOption) bool {
	for _, o := range opts {
		switch o.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.OnFinishCallOption:
			return true
		}
	}
	return false
}

// fill writes what came with the attempt that counted to where the caller wants it.
func (a *Answer) fill(opts []grpc.CallOption) {
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = a.header.Copy()
		case grpc.TrailerCallOption:
			*o.TrailerAddr = a.trailer.Copy()
		case grpc.PeerCallOption:
			*o.PeerAddr = a.peer
		}
	}
}

// finished tells those who asked to be told that the call is over.
func finished(opts []grpc.CallOption, err error) {
	for _, o := range opts {
		if o, ok := o.(grpc.OnFinishCallOption); ok {
			o.OnFinish(err)
		}
	}
}
