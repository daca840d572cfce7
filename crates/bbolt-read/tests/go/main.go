// Writes bbolt files with bbolt itself, for tests/bbolt.rs.
//
//	writer build FILE PAGE_SIZE          makes the changes that stand on standard input
//	writer churn FILE PAGE_SIZE COMMITS  changes the same keys in each of COMMITS transactions, without a
//	                                     sync, and prints the number of each one when it has committed
//
// A line of "build" is: begin | commit | rollback | bucket PATH | drop PATH | put PATH KEY VALUE |
// delete PATH KEY. A path is bucket names with commas between them; names, keys and values are
// hexadecimal.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"

	bolt "go.etcd.io/bbolt"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func unhex(text string) []byte {
	decoded, err := hex.DecodeString(text)
	check(err)
	return decoded
}

func bucketAt(tx *bolt.Tx, path string) *bolt.Bucket {
	var bucket *bolt.Bucket
	for _, name := range strings.Split(path, ",") {
		var err error
		if bucket == nil {
			bucket, err = tx.CreateBucketIfNotExists(unhex(name))
		} else {
			bucket, err = bucket.CreateBucketIfNotExists(unhex(name))
		}
		check(err)
	}
	return bucket
}

func drop(tx *bolt.Tx, path string) {
	cut := strings.LastIndexByte(path, ',')
	name := unhex(path[cut+1:])
	if cut < 0 {
		if tx.Bucket(name) != nil {
			check(tx.DeleteBucket(name))
		}
	} else if parent := bucketAt(tx, path[:cut]); parent.Bucket(name) != nil {
		check(parent.DeleteBucket(name))
	}
}

func build(db *bolt.DB) {
	var tx *bolt.Tx
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<26)
	for lines.Scan() {
		words := strings.Split(lines.Text(), " ")
		switch words[0] {
		case "begin":
			var err error
			tx, err = db.Begin(true)
			check(err)
		case "commit":
			check(tx.Commit())
		case "rollback":
			check(tx.Rollback())
		case "bucket":
			bucketAt(tx, words[1])
		case "drop":
			drop(tx, words[1])
		case "put":
			check(bucketAt(tx, words[1]).Put(unhex(words[2]), unhex(words[3])))
		case "delete":
			check(bucketAt(tx, words[1]).Delete(unhex(words[2])))
		default:
			check(fmt.Errorf("what is %q?", words[0]))
		}
	}
	check(lines.Err())
}

// Every value of a transaction is its number, repeated: often enough for a value to have pages of its
// own now and then.
func churn(db *bolt.DB, commits int) {
	for number := 1; number <= commits; number++ {
		encoded := binary.LittleEndian.AppendUint64(nil, uint64(number))
		check(db.Update(func(tx *bolt.Tx) error {
			for _, name := range []string{"large", "inline"} {
				bucket, err := tx.CreateBucketIfNotExists([]byte(name))
				check(err)
				for key := range 40 {
					if name == "inline" && key > 3 {
						break
					}
					repeat := 1
					if name == "large" {
						repeat = 1 + (number*7+key*13)%60
					}
					if name == "large" && key == 5 {
						repeat = 2000
					}
					check(bucket.Put([]byte(fmt.Sprintf("key%02d", key)), bytes.Repeat(encoded, repeat)))
				}
			}
			return nil
		}))
		_, err := fmt.Println(number)
		check(err)
	}
}

func main() {
	pageSize, err := strconv.Atoi(os.Args[3])
	check(err)
	options := *bolt.DefaultOptions
	options.PageSize = pageSize
	options.NoSync = true
	options.NoFreelistSync = pageSize == os.Getpagesize()
	db, err := bolt.Open(os.Args[2], 0o600, &options)
	check(err)
	if os.Args[1] == "churn" {
		commits, err := strconv.Atoi(os.Args[4])
		check(err)
		churn(db, commits)
	} else {
		build(db)
	}
	check(db.Close())
}
