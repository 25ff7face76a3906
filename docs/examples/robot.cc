// A robot in C++: apt install libzmq3-dev; g++ -std=c++17 robot.cc -lzmq -o robot; ./robot [ADDRESS]
//
// Writes the few forms of msgpack that an observation needs, and reads those that an answer has.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>
#include <zmq.h>

struct Packer {
  std::string out;

  void big_endian(uint64_t value, int bytes) {
    for (int at = bytes - 1; at >= 0; --at) out.push_back(char(value >> (8 * at)));
  }
  void map(uint32_t count) { out.push_back(char(0xdf)), big_endian(count, 4); }
  void text(const std::string& value) {
    out.push_back(char(0xdb)), big_endian(value.size(), 4), out += value;
  }
  void number(int64_t value) { out.push_back(char(0xd3)), big_endian(uint64_t(value), 8); }
  void yes() { out.push_back(char(0xc3)); }

  // An array is a map of its type, its shape and its bytes, last axis fastest.
  void array(const char* type, const std::vector<uint32_t>& shape, const void* data, size_t bytes) {
    map(5);
    text("nd"), yes();
    text("type"), text(type);
    text("kind"), text("");
    text("shape"), out.push_back(char(0xdd)), big_endian(shape.size(), 4);
    for (uint32_t length : shape) number(length);
    text("data"), out.push_back(char(0xc6)), big_endian(bytes, 4);
    out.append(static_cast<const char*>(data), bytes);
  }
};

// What msgpack can hold, as far as it matters here: texts and bytes as text, numbers, and more.
struct Value {
  std::string text;
  double number = 0;
  std::vector<Value> items;  // of a list; of a map: key, value, key, value

  const Value& operator[](const std::string& key) const {
    for (size_t at = 0; at + 1 < items.size(); at += 2)
      if (items[at].text == key) return items[at + 1];
    throw std::runtime_error("the answer has no " + key);
  }
};

class Unpacker {
 public:
  explicit Unpacker(const std::string& data) : data_(data) {}

  Value value(int depth = 0) {
    if (depth > 32) throw std::runtime_error("nested too deeply");
    const uint8_t tag = uint8_t(take(1)[0]);
    if (tag < 0x80) return of_number(tag);
    if (tag < 0x90) return items(2 * (tag & 15), depth);
    if (tag < 0xa0) return items(tag & 15, depth);
    if (tag < 0xc0) return of_text(tag & 31);
    if (tag >= 0xe0) return of_number(int8_t(tag));
    switch (tag) {
      case 0xc0: case 0xc2: return of_number(0);
      case 0xc3: return of_number(1);
      case 0xc4: case 0xd9: return of_text(bits(1));
      case 0xc5: case 0xda: return of_text(bits(2));
      case 0xc6: case 0xdb: return of_text(bits(4));
      case 0xca: return of_number(as<float>(uint32_t(bits(4))));
      case 0xcb: return of_number(as<double>(bits(8)));
      case 0xcc: return of_number(double(bits(1)));
      case 0xcd: return of_number(double(bits(2)));
      case 0xce: return of_number(double(bits(4)));
      case 0xcf: return of_number(double(bits(8)));
      case 0xd0: return of_number(int8_t(bits(1)));
      case 0xd1: return of_number(int16_t(bits(2)));
      case 0xd2: return of_number(int32_t(bits(4)));
      case 0xd3: return of_number(double(int64_t(bits(8))));
      case 0xdc: return items(bits(2), depth);
      case 0xdd: return items(bits(4), depth);
      case 0xde: return items(2 * bits(2), depth);
      case 0xdf: return items(2 * bits(4), depth);
    }
    throw std::runtime_error("an answer that is not msgpack");
  }

 private:
  const std::string& data_;
  size_t at_ = 0;

  template <typename Number, typename Raw>
  static Number as(Raw raw) {
    Number found;
    std::memcpy(&found, &raw, sizeof found);
    return found;
  }
  std::string take(size_t bytes) {
    if (bytes > data_.size() - at_) throw std::runtime_error("an answer that ends too early");
    at_ += bytes;
    return data_.substr(at_ - bytes, bytes);
  }
  uint64_t bits(size_t bytes) {
    uint64_t found = 0;
    for (char byte : take(bytes)) found = found << 8 | uint8_t(byte);
    return found;
  }
  static Value of_number(double number) { Value found; found.number = number; return found; }
  Value of_text(size_t bytes) { Value found; found.text = take(bytes); return found; }
  Value items(size_t count, int depth) {
    Value found;
    for (size_t at = 0; at < count; ++at) found.items.push_back(value(depth + 1));
    return found;
  }
};

static std::string receive(void* socket) {
  zmq_msg_t frame;
  zmq_msg_init(&frame);
  if (zmq_msg_recv(&frame, socket, 0) < 0)
    throw std::runtime_error(std::string("no answer: ") + zmq_strerror(zmq_errno()));
  std::string found(static_cast<char*>(zmq_msg_data(&frame)), zmq_msg_size(&frame));
  zmq_msg_close(&frame);
  return found;
}

int main(int count, char** arguments) try {
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_REQ);
  const int linger = 0, wait_ms = 11000;  // a little longer than the deadline
  zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
  zmq_setsockopt(socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
  if (zmq_connect(socket, count > 1 ? arguments[1] : "tcp://127.0.0.1:8000") != 0)
    throw std::runtime_error(zmq_strerror(zmq_errno()));

  Packer header, body;
  header.map(3);
  header.text("v"), header.number(1);
  header.text("kind"), header.text("infer");
  header.text("deadline_ms"), header.number(10000);
  const std::vector<uint8_t> image(224 * 224 * 3);
  const std::vector<float> state(8);
  body.map(4);
  for (const char* camera : {"observation/image", "observation/wrist_image"})
    body.text(camera), body.array("|u1", {224, 224, 3}, image.data(), image.size());
  body.text("observation/state"), body.array("<f4", {8}, state.data(), 4 * state.size());
  body.text("prompt"), body.text("put the bowl on the plate");
  zmq_send(socket, header.out.data(), header.out.size(), ZMQ_SNDMORE);
  zmq_send(socket, body.out.data(), body.out.size(), 0);

  const std::string first = receive(socket);
  const Value told = Unpacker(first).value();
  if (told["kind"].text == "error")
    throw std::runtime_error(told["code"].text + ": " + told["message"].text);
  const std::string second = receive(socket);
  const Value answer = Unpacker(second).value();
  const Value& actions = answer["actions"];
  std::printf("result %s [", actions["type"].text.c_str());
  for (size_t at = 0; at < actions["shape"].items.size(); ++at)
    std::printf("%s%d", at ? ", " : "", int(actions["shape"].items[at].number));
  std::printf("] %zu\n", actions["data"].text.size() / (actions["type"].text == "<f4" ? 4 : 8));
  zmq_close(socket);
  zmq_ctx_term(context);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
