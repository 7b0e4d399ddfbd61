//! An HTTP server for tests: real sockets, answers as told.

pub mod hub;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What a client sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Method and path, e.g. `GET /x`.
    pub line: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Sent {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What the server does with a request: raw bytes, or silence.
pub type Reply = Option<Vec<u8>>;

/// A server on a free port of this machine; it lives as long as the process.
pub struct Server {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    seen: Arc<Mutex<Vec<Sent>>>,
}

impl Server {
    /// Starts one. `answer` gets the number of the request, from 0.
    pub fn start(answer: impl Fn(usize, &Sent) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log) = (answer.clone(), log.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &*answer, &log));
            }
        });
        Server { url, seen }
    }

    /// One that gives these replies in order, then the last one forever.
    pub fn scripted(replies: Vec<Reply>) -> Server {
        Server::start(move |n, _| replies[n.min(replies.len() - 1)].clone())
    }

    /// One that reads a request and then does as told with the connection.
    pub fn raw(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, mut stream) = (answer.clone(), stream.unwrap());
                std::thread::spawn(move || {
                    let _ = stream.read(&mut [0; 1 << 16]);
                    answer(&mut stream);
                });
            }
        });
        Server { url, seen: Arc::default() }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Sent> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(usize, &Sent) -> Reply, log: &Mutex<Vec<Sent>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let pair = |line: &String| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
    let mut sent = Sent {
        line: lines[0].trim_end_matches(" HTTP/1.1").to_owned(),
        headers: lines[1..].iter().filter_map(pair).collect(),
        body: String::new(),
    };
    let length = sent.header("content-length").map_or(0, |v| v.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    sent.body = String::from_utf8(body).unwrap();
    let number = {
        let mut log = log.lock().unwrap();
        log.push(sent.clone());
        log.len() - 1
    };
    match answer(number, &sent) {
        Some(bytes) => drop(stream.write_all(&bytes)),
        // Until the client hangs up.
        None => drop(reader.read(&mut [0])),
    }
}

/// A response with the right `Content-Length`.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
    let body = body.as_ref();
    let mut out = format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    Some([out.as_bytes(), body].concat())
}
