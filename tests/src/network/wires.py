"""Wires between pairs of network interfaces that delay frames and lose some, as a long way through the world does.

A frame that comes in at one end of a wire goes out at the other: after the wire's delay, which differs from frame to frame by
up to the jitter, and never before one that came in earlier. Each is lost with the same probability, whatever became of the
others.

arguments: the two interfaces at the ends of each wire, as NEAR:FAR. Its name is that of the near end.
input:     lines of NEAR DELAY JITTER LOSS: from here on the wire is like that, both ways. The times are in seconds, the loss
           is a share. Its end is the end of the program.
output:    a line when the wires work, and one after each change.
"""

import collections
import random
import select
import socket
import sys
import time

# From <linux/if_packet.h>: each frame comes with a header (struct virtio_net_hdr). It says whether the checksum is still to be
# computed, which the kernel leaves to the last interface, and whether the frame is still to be segmented.
SOL_PACKET = 263
PACKET_VNET_HDR = 15
ETH_P_ALL = 3
# From <asm-generic/socket.h>: SO_RCVBUF beyond the system's limit.
SO_RCVBUFFORCE = 33
# Bytes that may wait to be read. A frame that does not fit would be lost in addition to the configured loss.
WAITING_MAX = 32 << 20
# More than the largest frame that is still to be segmented, with its header.
FRAME_MAX = 1 << 17


class Wire:
    """How a wire treats frames: it neither delays nor loses any, until it is told to."""

    def __init__(self):
        self.delay, self.jitter, self.loss = 0.0, 0.0, 0.0


class Way:
    """The frames in flight from one end of a wire to the other."""

    def __init__(self, wire, source, sink):
        self.wire, self.source, self.sink = wire, source, sink
        # When each frame arrives, and the frame.
        self.frames = collections.deque()

    def take_in(self):
        """Reads the frames that have arrived."""
        while True:
            try:
                frame, (_, _, kind, *_) = self.source.recvfrom(FRAME_MAX)
            except BlockingIOError:
                return
            # A packet socket also gets the frames that leave by its interface.
            if kind == socket.PACKET_OUTGOING or random.random() < self.wire.loss:
                continue
            # The clock is read for each: more may come in while these are read.
            arrival = time.monotonic() + self.wire.delay + random.uniform(-self.wire.jitter, self.wire.jitter)
            if self.frames:
                arrival = max(arrival, self.frames[-1][0])
            self.frames.append((arrival, frame))

    def let_out(self, now):
        """Sends the frames that are due. Returns when the next one is."""
        while self.frames and self.frames[0][0] <= now:
            self.sink.send(self.frames.popleft()[1])
        return self.frames[0][0] if self.frames else None


def open_end(interface):
    """Opens an end of a wire."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, WAITING_MAX)
    end.bind((interface, ETH_P_ALL))
    return end


def main():
    wires, ways = {}, {}
    for near, far in (argument.split(":") for argument in sys.argv[1:]):
        wire, ends = Wire(), (open_end(near), open_end(far))
        wires[near] = wire
        for source, sink in (ends, reversed(ends)):
            ways[source.fileno()] = Way(wire, source, sink)
    readable = select.poll()
    for file in (sys.stdin.fileno(), *ways):
        readable.register(file, select.POLLIN)
    print("ready", flush=True)

    while True:
        arrivals = [arrival for way in ways.values() if (arrival := way.let_out(time.monotonic())) is not None]
        wait = (min(arrivals) - time.monotonic()) * 1000 if arrivals else None
        for file, _ in readable.poll(wait if wait is None else max(wait, 0)):
            if file in ways:
                ways[file].take_in()
                continue
            order = sys.stdin.readline().split()
            if not order:
                return
            wire = wires[order[0]]
            wire.delay, wire.jitter, wire.loss = map(float, order[1:])
            print("changed", flush=True)


main()
